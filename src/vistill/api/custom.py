"""A method of the user's own: a function in a file or module, named by the configuration."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.ingredients import Ingredients


def build_custom(given: Ingredients) -> Method:
    """What the function named by `method.builder` makes of `given`.

    Raises:
        UserError: there is no such function, it does not give a method, or a setting has no use.
    """
    builder = given.config.builder
    if builder is None:
        raise UserError("custom needs a function: set method.builder=FILE.py:NAME or MODULE:NAME")
    method = find_builder(builder)(given)
    if not isinstance(method, Method):
        raise UserError(
            f"method.builder={builder} gives a {type(method).__name__}, not a "
            "vistill.methods.base.Method"
        )
    given.check_all_used()
    return method


def find_builder(where: str) -> Callable[[Ingredients], Method]:
    """The function `FILE.py:NAME` or `PACKAGE.MODULE:NAME`.

    Raises:
        UserError: the file, the module or the function does not exist.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise UserError(
            f"method.builder={where} names no function; write FILE.py:NAME or MODULE:NAME"
        )
    module = _file(place) if place.endswith(".py") else _module(place)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        hint = did_you_mean(name, functions)
        raise UserError(f"method.builder: {place} has no function {name!r}{hint}")
    return found


def _file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise UserError(f"method.builder: file {path} does not exist")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise UserError(f"method.builder: there is no module {name!r}")
    return importlib.import_module(name)
