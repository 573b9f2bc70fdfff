"""Feature maps of a module by name: what parts of it give, or what it returns itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vistill.errors import UserError, first_line
from vistill.models.adapters.sites import is_channels_last, returned_maps


class Places(NamedTuple):
    """Where named maps are.

    Attributes:
        names: as they were given.
        keys: of those that the module returns, by name; the others are dotted names of its parts.
        last_name: the one that is made last.
        channels_last: those that are `[B, H, W, D]`.
    """

    names: tuple[str, ...]
    keys: dict[str, int | str]
    last_name: str
    channels_last: frozenset[str]

    @property
    def last(self) -> tuple[str | None, int | str | None]:
        """The last map as `layer` and `output` of a `PooledBackbone`."""
        key = self.keys.get(self.last_name)
        return (self.last_name, None) if key is None else (None, key)

    def of_output(self, output: Any) -> dict[str, Tensor]:
        """The maps among what the module returned, `[B, D, H, W]`."""
        found = returned_maps(output) if self.keys else {}
        return {name: self.ordered(name, found[key]) for name, key in self.keys.items()}

    def ordered(self, name: str, found: Tensor) -> Tensor:
        """A map as `[B, D, H, W]`."""
        return found.permute(0, 3, 1, 2) if name in self.channels_last else found


@torch.no_grad()
def find_places(module: nn.Module, names: tuple[str, ...], size: tuple[int, int]) -> Places:
    """Look for the maps in one pass over random pictures; what is returned goes before a part.

    Raises:
        UserError: there is no map of such a name, or one is named twice.
    """
    whose = type(module).__name__
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"the map {double} is named twice; leave one of them out")
    given: dict[str, Any] = {}

    def keep(name: str, output: Any) -> None:
        given.pop(name, None)  # so that the order is that of the last calls
        given[name] = output

    parts = {name: part for name, part in module.named_modules() if name}
    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, part in parts.items()
    ]
    like, output, failed = next(module.parameters(), torch.empty(0)), None, ""
    try:
        output = module(torch.rand(2, 3, *size).to(like))
    except Exception as error:  # in heads behind the maps, say, which are not run
        failed = f", which fails: {first_line(error)}"
    finally:
        for handle in handles:
            handle.remove()
    keys = {str(key): key for key in returned_maps(output) if key != ""}
    maps = {name: found for name, found in given.items() if _is_map(found)}
    for name in names:
        if name not in keys and name not in maps:
            _refuse(name, f"{whose}{failed}", parts, given, [*maps, *keys])
    found = {name: returned_maps(output)[keys[name]] if name in keys else given[name]
             for name in names}  # fmt: skip
    made = [name for name in given if name in names and name not in keys]
    made += [name for name in keys if name in names]
    last = frozenset(name for name in names if is_channels_last(found[name].shape, size))
    return Places(names, {name: keys[name] for name in names if name in keys}, made[-1], last)


def _is_map(found: Any) -> bool:
    return isinstance(found, Tensor) and found.dim() == 4 and min(found.shape[1:]) > 1


def _refuse(
    name: str, whose: str, parts: dict[str, nn.Module], given: dict[str, Any], maps: list[str]
) -> None:
    """Raise a UserError that says what is wrong with the name, and which are near."""
    near = get_close_matches(name, maps, n=3, cutoff=0.4) or [one for one in maps if "." not in one]
    hint = f"; near: {', '.join(near[:5])}" if near else ""
    if name not in parts:
        raise UserError(f"there is no part or map {name!r} in {whose}{hint}")
    if name not in given:
        raise UserError(f"{name!r} is not come by in {whose}{hint}")
    found = given[name]
    what = f"[{', '.join(map(str, ['B', *found.shape[1:]]))}]" if isinstance(found, Tensor) else (
        f"a {type(found).__name__}"
    )  # fmt: skip
    raise UserError(f"{name!r} of {whose} gives {what}, no feature map [B, D, H, W]{hint}")


@contextmanager
def kept_maps(module: nn.Module, places: Places) -> Iterator[dict[str, Tensor]]:
    """The maps that parts give, filled in while the module runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        # An activation in place would overwrite a map that is still wanted.
        seen[name] = places.ordered(name, output.clone())

    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: keep(name, output)
        )
        for name in places.names
        if name not in places.keys
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
