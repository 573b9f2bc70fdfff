"""Dotted overrides of the command line: `optim.lr=1e-3`, `method.relation.pairs=[qk,vv]`."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from vistill.config.yaml12 import load_yaml, parse_scalar
from vistill.errors import UserError

Overrides = dict[tuple[str, ...], Any]

SHORT = {"method": "name", "cache": "path"}
"""Sections that may be given as one word, and which of their keys that word is."""


def parse_overrides(words: Iterable[str]) -> Overrides:
    """Turn `key.path=value` words into paths and values.

    Values follow YAML 1.2. Only `[..]`, `{..}` and quoted text are read as YAML structure, so that
    globs (`*.tar`) and paths with `#` or `: ` need no quotes.

    Raises:
        UserError: a word without `=`, without a key, or a key set twice.
    """
    overrides: Overrides = {}
    for word in words:
        key, equals, text = word.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key or not all(key.split(".")):
            raise UserError(f"{word!r} is not an override; write it as section.key=value")
        structured = text[:1] in ("[", "{", '"', "'")
        value = load_yaml(text, f"the value of {key}") if structured else parse_scalar(text)
        set_override(overrides, key, value)
    return overrides


def set_override(overrides: Overrides, key: str, value: Any) -> None:
    """Add one setting; a second value for the same key is a mistake, not a correction."""
    path = tuple(key.split("."))
    if path in overrides and overrides[path] != value:
        raise UserError(f"{key} is set twice: {overrides[path]!r} and {value!r}")
    overrides[path] = value


def apply_overrides(
    raw: Mapping[str, Any], overrides: Overrides, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of the nested mapping `raw` with `overrides` laid over it.

    Args:
        raw: what a recipe says.
        overrides: from `parse_overrides`; whole sections are laid first, then their keys.
        defaults: the complete settings, which supply the rest of a list when one item is overridden
            by number (`optim.betas.1=0.99`).

    Raises:
        UserError: an item number outside its list.
    """
    result = copy.deepcopy(dict(raw))
    for path in sorted(overrides, key=len):
        _put(result, path, copy.deepcopy(overrides[path]), defaults)
    return result


def _put(node: Any, path: tuple[str, ...], value: Any, defaults: Any) -> None:
    for depth, part in enumerate(path):
        where: Any = part
        if isinstance(node, list):
            where = _index(node, path, depth)
        if depth == len(path) - 1:
            node[where] = value
            return
        child = _child(node, part)
        if path[depth + 1].isdigit() and isinstance(_child(defaults, part), list | tuple):
            child = child if isinstance(child, list) else list(_child(defaults, part))
        elif not isinstance(child, dict | list):
            short = SHORT.get(part) if depth == 0 and isinstance(child, str) else None
            child = {short: child} if short is not None else {}
        node[where] = child
        node, defaults = child, _child(defaults, part)


def _child(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list | tuple) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return None


def _index(items: list[Any], path: tuple[str, ...], depth: int) -> int:
    if not path[depth].isdigit() or int(path[depth]) >= len(items):
        raise UserError(
            f"{'.'.join(path)}: {'.'.join(path[:depth])} is a list of {len(items)}; "
            "name an item by its number, counted from 0"
        )
    return int(path[depth])
