"""Options of a method of the user's own, checked like every other setting."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from vistill.config.problems import explain
from vistill.config.section import Section
from vistill.errors import UserError

S = TypeVar("S", bound=Section)


def checked_options(section: type[S], values: Mapping[str, Any], place: str) -> S:
    """`values` as `section` declares them.

    Args:
        section: names, types, bounds and defaults.
        values: as given.
        place: dotted setting under which they stand, such as `method.options`.

    Raises:
        UserError: every problem, with the nearest right spelling.
    """
    schema: type[Section] = section
    found: Any = values
    for name in reversed(place.split(".")):  # so that every sentence names the whole setting
        schema = create_model(name, __base__=Section, **{name: (schema, ...)})  # type: ignore[call-overload]
        found = {name: found}
    try:
        checked: Any = schema.model_validate(found)
    except ValidationError as error:
        raise UserError("; ".join(text for _, text in explain(error, schema))) from None
    for name in place.split("."):
        checked = getattr(checked, name)
    return checked
