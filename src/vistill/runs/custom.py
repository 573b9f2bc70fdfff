"""A method of the user's own: a function in a file or module, named by the configuration."""

from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.ingredients import Ingredients
from vistill.models.adapters.own_modules import find_function


def build_custom(given: Ingredients) -> Method:
    """What the function named by `method.builder` makes of `given`.

    Raises:
        UserError: there is no such function, it does not give a method, or a setting has no use.
    """
    builder = given.config.builder
    if builder is None:
        raise UserError("custom needs a function: set method.builder=FILE.py:NAME or MODULE:NAME")
    method = find_function(builder, "method.builder")(given)
    if not isinstance(method, Method):
        raise UserError(
            f"method.builder={builder} gives a {type(method).__name__}, not a "
            "vistill.methods.base.Method"
        )
    given.check_all_used()
    return method
