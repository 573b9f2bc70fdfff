"""A method from the words of its section, as the command line builds it."""

from typing import Any

from vistill.config.problems import sections
from vistill.config.schema import RunConfig
from vistill.methods import build_method
from vistill.methods.base import Method
from vistill.methods.ingredients import Ingredients
from vistill.models.backbone import Backbone

SECTIONS = sections(RunConfig.model_fields["method"].annotation)


def build(
    name: str,
    student: Backbone,
    teacher: Backbone | None = None,
    *,
    block: int | None = None,
    drop_path: float | None = None,
    teacher_drop_path: float = 0.0,
    **options: Any,
) -> Any:
    """The method `name` with `options` of its section."""
    config = SECTIONS[name].model_validate(options)
    given = Ingredients(name, student, teacher, config, block, teacher_drop_path, drop_path)
    method = build_method(given)
    assert isinstance(method, Method)
    return method
