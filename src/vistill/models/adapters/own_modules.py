"""Modules of the user's own: made by a function of theirs, wrapped again for a run's weights."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from vistill.errors import UserError
from vistill.files import near_path
from vistill.image_size import ImageSize
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.adapters.detectors import own_backbone
from vistill.models.backbone import Backbone, require_backbone

_ADAPTERS: dict[str, Callable[..., Backbone]] = {
    "ModuleBackbone": ModuleBackbone,
    "PooledBackbone": PooledBackbone,
}


def find_function(where: str, key: str) -> Callable[..., Any]:
    """The function `FILE.py:NAME` or `PACKAGE.MODULE:NAME`; the file is run.

    Args:
        where: its place.
        key: the setting that names it, for messages.

    Raises:
        UserError: the file, the module or the function does not exist.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise UserError(f"{key}={where} names no function; write FILE.py:NAME or MODULE:NAME")
    module = _file(place, key) if place.endswith(".py") else _module(place, key)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [k for k, value in vars(module).items() if callable(value)]
        near = get_close_matches(name, functions, n=1)
        there = f"; there is {', '.join(sorted(functions)[:5])}" if functions else ""
        hint = f"; did you mean {near[0]!r}?" if near else there
        raise UserError(f"{key}: {place} has no function {name!r}{hint}")
    return found


def _file(path: str, key: str) -> ModuleType:
    if not Path(path).is_file():
        raise UserError(f"{key}: file {path} does not exist{near_path(path)}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _module(name: str, key: str) -> ModuleType:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise UserError(f"{key}: there is no module {name!r}")
    return importlib.import_module(name)


def made_module(where: str) -> nn.Module:
    """What the function `FILE.py:NAME` or `PACKAGE.MODULE:NAME`, called without arguments, returns.

    Raises:
        UserError: there is no such function, or it returns no module.
    """
    made = find_function(where, "model")()
    if not isinstance(made, nn.Module):
        raise UserError(f"model={where} returns a {type(made).__name__}, not a torch.nn.Module")
    if isinstance(made, Backbone):
        made.made_by = where
        if made.origin == "given as an object":
            made.origin = f"what {where} returns"
    return made


def made_backbone(where: str, image_size: ImageSize = 224, maps: Sequence[str] = ()) -> Backbone:
    """The same as a backbone: wrapped already, a detector, or a module whose maps are named.

    Args:
        where: the function.
        image_size: of its inputs, where it is not wrapped.
        maps: names of feature maps, see `PooledBackbone`.

    Raises:
        UserError: it returns something else; told is how to wrap it.
    """
    made = own_backbone(made_module(where), image_size, maps)
    if made.made_by is None:
        made.made_by, made.origin = where, f"what {where} returns"
    return made


def object_facts(backbone: Backbone) -> dict[str, Any]:
    """What is written down of a model that only its user can build."""
    inner = getattr(backbone, "module", backbone)
    kind = type(backbone).__name__
    adapter = {"kind": kind, "args": backbone.adapter} if backbone.adapter is not None else None
    return {
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "made_by": backbone.made_by,
        "adapter": adapter,
    }


def given_back(into: "nn.Module | str | None", facts: Mapping[str, Any], place: Path) -> Backbone:
    """The model that its user gives back, for the weights in `place`: wrapped as it was.

    Args:
        into: the module, bare or wrapped, or the function that makes it; None is refused.
        facts: what `object_facts` wrote down.
        place: folder of the export, for messages.

    Raises:
        UserError: nothing was given, or vistill cannot wrap it.
    """
    if into is None:
        made_by = facts.get("made_by") or "FILE.py:FUNCTION"
        raise UserError(
            f"{place} holds the weights of a module of yours, {facts.get('class')}, which only you "
            f"can build: give it by --model {made_by}, from Python as model= of evaluate and "
            "export or into= of load_backbone"
        )
    module = made_module(into) if isinstance(into, str) else into
    if isinstance(module, Backbone):
        return module
    adapter = facts.get("adapter")
    if adapter is None or adapter.get("kind") not in _ADAPTERS:
        return require_backbone(module)
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in adapter["args"].items()
    }
    return _ADAPTERS[adapter["kind"]](module, **arguments)
