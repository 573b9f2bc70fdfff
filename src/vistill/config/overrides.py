"""What was said, in one form: every setting by its path, whatever the words and their order.

`student=vit_tiny`, `student.model=vit_tiny` and `{"student": {"model": "vit_tiny"}}` are the same,
on the command line, in a recipe and from Python.
"""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from vistill.config.problems import sections
from vistill.config.suggest import shown
from vistill.config.yaml12 import load_yaml, parse_scalar
from vistill.errors import UserError

Path = tuple[str, ...]
Overrides = Iterable[tuple[str, Any]]
"""Dotted keys and their values, as they were written."""

_MEANT = (
    "epochs",
    "lr",
    "train",
    "k",
    "pairs",
    "kind",
    "loss",
    "weight",
    "depth",
    "views",
    "image_size",
)
"""Settings that a value given to their whole section was most likely meant for."""


def parse_overrides(words: Iterable[str]) -> list[tuple[str, Any]]:
    """Turn `key.path=value` words into keys and values.

    Values follow YAML 1.2. Only `[..]`, `{..}` and quoted text are read as YAML structure, so that
    globs (`*.tar`) and paths with `#` or `: ` need no quotes.

    Raises:
        UserError: a word without `=` or without a key.
    """
    overrides = []
    for word in words:
        key, equals, text = word.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key or not all(key.split(".")):
            raise UserError(f"{word!r} is not an override; write it as section.key=value")
        overrides.append((key, _value(text, f"the value of {key}")))
    return overrides


def _value(text: str, name: str) -> Any:
    if text[:1] in ("[", "{", '"', "'"):
        return load_yaml(text, name)
    try:
        return parse_scalar(text)
    except ValueError as error:
        raise UserError(f"{name} is {error}") from None


@dataclass(frozen=True)
class Said:
    """What one source says: the command line, or a recipe.

    Attributes:
        values: by path; items of a list are numbers counted from 0.
        anew: sections said as a whole, of which earlier sources keep nothing: a method by its name,
            a mapping of free keys.
    """

    values: dict[Path, Any] = field(default_factory=dict)
    anew: set[Path] = field(default_factory=set)


def canonical(
    schema: type[BaseModel], overrides: Overrides, *, empty_sections: bool = False
) -> Said:
    """Settings by their path, the same for every order of `overrides`.

    Args:
        schema: what may be set.
        overrides: keys with dots, and values; mappings are taken apart.
        empty_sections: let `optim:` without settings stand, as in a recipe.

    Raises:
        UserError: a setting has two different values, or a section a value that it cannot have.
    """
    said = Said()
    for key, value in overrides:
        for path, leaf in _leaves((), _parts(key), value, [schema], said.anew, empty_sections):
            if path in said.values and not _same(said.values[path], leaf):
                first = said.values[path]
                raise UserError(f"{'.'.join(path)} is set twice: {first!r} and {leaf!r}")
            said.values[path] = leaf
    for path in sorted(said.values, key=len, reverse=True):
        if _within_another(said.values, path):
            del said.values[path]
    return said


def taken_back(schema: type[BaseModel], said: Said) -> set[Path]:
    """Settings of earlier sources that those in `said` replace: `optim.lr` by `optim.base_lr`."""
    found: set[Path] = set()
    for path in said.values:
        kind: Any = [schema]
        for part in path[:-1]:
            kind = _inner(kind, part)
        for model in kind if isinstance(kind, list) else ():
            found |= {
                (*path[:-1], name) for name in getattr(model, "replaces", {}).get(path[-1], ())
            }
    return found


def apply_overrides(
    recipe: Said, overrides: Said, defaults: Mapping[str, Any], gone: Collection[Path] = ()
) -> dict[str, Any]:
    """The nested settings of `recipe` with `overrides` laid over them.

    Args:
        recipe, overrides: see `canonical`.
        gone: what `overrides` replace by other settings.
        defaults: the complete settings, which supply the rest of a list when one item is overridden
            by number (`optim.betas.1=0.99`).

    Raises:
        UserError: an item number outside its list.
    """
    gone = {*gone, *overrides.anew, *overrides.values}
    kept = {
        path: value
        for path, value in recipe.values.items()
        if not any(path[:n] in gone for n in range(1, len(path) + 1))
    }
    result: dict[str, Any] = {}
    for values in (kept, overrides.values):
        for path in sorted(values, key=len):
            _put(result, path, copy.deepcopy(values[path]), defaults)
    return result


def _parts(key: str) -> Path:
    return tuple(key.split("."))


def _leaves(
    path: Path, rest: Path, value: Any, kind: Any, anew: set[Path], empty: bool
) -> Iterator[tuple[Path, Any]]:
    """The settings below `path` that `value` at `path + rest` says.

    Args:
        kind: of what is at `path`: the models that a section may be, or an annotation.
    """
    if rest:
        part, *more = rest
        if kind is not None and not isinstance(kind, list) and _is_number(part):
            part = str(int(part))
        yield from _leaves((*path, part), tuple(more), value, _inner(kind, part), anew, empty)
        return
    name = _word(kind)
    if isinstance(value, Mapping) and (value or isinstance(kind, list)):
        if not isinstance(kind, list) or (len(kind) > 1 and name in value):
            anew.add(path)
        for key, inner in value.items():
            below = _parts(str(key)) if isinstance(kind, list) else (str(key),)
            yield from _leaves(path, below, inner, kind, anew, empty)
    elif not isinstance(kind, list):
        if isinstance(value, bool) and _types(kind) & {int, float, bool} in ({int}, {float}):
            # pydantic would take `true` for 1
            raise UserError(f"{'.'.join(path)} must be a number, not {shown(value)}")
        yield path, value
    elif name is not None and isinstance(value, str | None):
        if len(kind) > 1:
            anew.add(path)
        yield (*path, name), value
    elif value is not None or not empty:
        raise UserError(_no_section(".".join(path), value, kind))


def _inner(kind: Any, part: str) -> Any:
    """The kind of `part` of a section, a mapping or a list, see `_leaves`."""
    if not isinstance(kind, list):
        return _kind(get_args(kind)[1]) if get_origin(kind) is dict else None
    fields = [model.model_fields[part] for model in kind if part in model.model_fields]
    return _kind(fields[0].annotation) if fields else None


def _kind(annotation: Any) -> Any:
    models = sections(annotation)
    if models:
        return list(models.values())
    return next((one for one in get_args(annotation) if get_origin(one) is dict), annotation)


def _types(annotation: Any) -> set[Any]:
    """The classes that an annotation is made of."""
    inner = get_args(annotation)
    if inner:
        return set().union(*map(_types, inner))
    return {annotation} if isinstance(annotation, type) else set()


def _word(kind: Any) -> str | None:
    """The setting that a single word for the whole section means."""
    if not isinstance(kind, list):
        return None
    return "name" if len(kind) > 1 else getattr(kind[0], "word", None)


def _no_section(key: str, value: Any, models: list[type[BaseModel]]) -> str:
    names = dict.fromkeys(name for model in models for name in model.model_fields)
    ranked = sorted(names, key=lambda name: (*_MEANT, name).index(name))
    best = next((name for name in ranked if _fits(value, name, models)), None)
    said = f"{key} must be a section of settings, not {value!r}"
    if best is None:
        return f"{said}; write {key}.{ranked[0]}=VALUE"
    return f"{said}; did you mean {key}.{best}={shown(value)}?"


def _fits(value: Any, name: str, models: list[type[BaseModel]]) -> bool:
    field = next(model.model_fields[name] for model in models if name in model.model_fields)
    if value is None or sections(field.annotation):
        return False
    if isinstance(value, bool):
        return field.annotation is bool
    bounded: Any = Annotated[(field.annotation, *field.metadata, None)]
    try:
        TypeAdapter(bounded).validate_python(value)
    except ValidationError:
        return False
    return True


def _within_another(values: Mapping[Path, Any], path: Path) -> bool:
    """Whether a whole list among `values` says the same as its item at `path`.

    Raises:
        UserError: it says something else, or what it says has no such part.
    """
    for n in range(1, len(path)):
        if path[:n] not in values:
            continue
        whole, value, key = values[path[:n]], values[path], ".".join(path)
        said = f"{'.'.join(path[:n])}={shown(whole)}"
        item = whole
        for depth in range(n, len(path)):
            if not isinstance(item, list | tuple):
                raise UserError(f"{said} and {key}={shown(value)} exclude each other")
            item = item[_index(item, path, depth)]
        if not _same(item, value):
            raise UserError(f"{key} is set twice: {shown(item)} (in {said}) and {shown(value)}")
        return True
    return False


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit()


def _put(node: Any, path: Path, value: Any, defaults: Any) -> None:
    for depth, part in enumerate(path):
        where: Any = _index(node, path, depth) if isinstance(node, list) else part
        if depth == len(path) - 1:
            node[where] = value
            return
        child = _child(node, part)
        if _is_number(path[depth + 1]) and isinstance(_child(defaults, part), list | tuple):
            child = child if isinstance(child, list) else list(_child(defaults, part))
        elif not isinstance(child, dict | list):
            child = {}
        node[where] = child
        node, defaults = child, _child(defaults, part)


def _child(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list | tuple) and _is_number(part) and int(part) < len(node):
        return node[int(part)]
    return None


def _index(items: list[Any] | tuple[Any, ...], path: Path, depth: int) -> int:
    if not _is_number(path[depth]) or int(path[depth]) >= len(items):
        raise UserError(
            f"{'.'.join(path)}: {'.'.join(path[:depth])} is a list of {len(items)}; "
            "name an item by its number, counted from 0"
        )
    return int(path[depth])
