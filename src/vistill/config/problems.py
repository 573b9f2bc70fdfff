"""Turns pydantic errors into sentences that name the setting, its value and the way out."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vistill.config.suggest import did_you_mean, nearest_setting

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a mapping of names",
    "model": "a section of settings",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


_CLOSENESS = ({*_BOUNDS, "value_error", "finite_number"}, {"literal_error"})


def sections(annotation: Any) -> dict[str | None, type[BaseModel]]:
    """The section models a field may hold, by the name that chooses among several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {None: annotation}
    models = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    return {model.model_fields["name"].default: model for model in models}


def setting_names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted setting of `schema`; settings of alternative sections one after the other."""
    for name, field in schema.model_fields.items():
        inner = sections(field.annotation)
        for model in inner.values():
            yield from setting_names(model, f"{prefix}{name}.")
        if not inner:
            yield f"{prefix}{name}"


def explain(error: ValidationError, schema: type[BaseModel]) -> list[tuple[str, str]]:
    """The dotted key and one sentence fragment per problem."""
    found = []
    problems = error.errors()
    places = [problem["loc"] for problem in problems]
    either: dict[str, list[ErrorDetails]] = {}
    for problem in problems:
        place = problem["loc"]
        if problem["type"] == "too_short" and any(
            len(p) > len(place) and p[: len(place)] == place for p in places
        ):
            continue  # pydantic also calls a list too short whose items are wrong
        whole, key, chosen = _dotted(place, schema)
        if whole is not None:
            either.setdefault(whole, []).append(problem)
            continue
        unknown = problem["type"] == "extra_forbidden"
        for leaf in _leaves(key, problem["input"]) if unknown else [key]:
            found.append((leaf, _explain(problem, leaf, chosen, schema)))
    for tries in either.values():
        best = min(tries, key=_far)
        key = _dotted(best["loc"], schema)[1]
        if _far(best)[1] == len(_CLOSENESS):
            wanted = [
                one.get("ctx", {}).get("expected") or _KINDS.get(one["type"].partition("_")[0])
                for one in tries
            ]
            kinds = " or ".join(dict.fromkeys(kind for kind in wanted if kind))
            found.append((key, f"{key} must be {kinds}, not {best['input']!r}"))
        else:
            found.append((key, _explain(best, key, None, schema)))
    return found


def _far(problem: ErrorDetails) -> tuple[int, int]:
    """How far a value is from one of the kinds that a setting may have: small is likely meant."""
    kind, text = problem["type"], isinstance(problem["input"], str)
    near = next((i for i, kinds in enumerate(_CLOSENESS) if kind in kinds), len(_CLOSENESS))
    return -len(problem["loc"]), len(_CLOSENESS) if kind == "literal_error" and not text else near


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The settings below an unknown section: each deserves its own suggestion."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key


def _explain(problem: ErrorDetails, key: str, chosen: str | None, schema: type[BaseModel]) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(key, chosen, schema)
    if kind == "value_error":
        whole = key in ("", "method")  # such a sentence names its settings itself
        return str(context["error"]) if whole else f"{key} {context['error']}"
    if kind == "union_tag_invalid":
        names = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
        return f"unknown {key} {context['tag']!r}{did_you_mean(str(context['tag']), names)}"
    if kind == "literal_error":
        names = [c.strip("'") for c in context["expected"].replace(" or ", ", ").split(", ")]
        if isinstance(value, str):
            return f"{key} cannot be {value!r}{did_you_mean(value, names)}"
        return f"{key} must be one of {', '.join(names)}, not {value!r}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{key} must be {words} {context[name]:g}, not {value!r}"
    if kind == "finite_number":
        return f"{key} must be a finite number, not {value!r}"
    if kind in ("too_short", "too_long"):
        wanted = context["min_length"] if kind == "too_short" else context["max_length"]
        return f"the number of values of {key} must be {wanted}, not {context['actual_length']}"
    if kind == "missing":
        return f"{key} is missing"
    what = _KINDS.get(kind.partition("_")[0])
    if what is None:
        return f"{key}: {problem['msg'][:1].lower()}{problem['msg'][1:]} (got {value!r})"
    return f"{key} must be {what}, not {value!r}"


def _dotted(
    loc: tuple[int | str, ...], schema: type[BaseModel]
) -> tuple[str | None, str, str | None]:
    """Where an error is, without the tags that pydantic puts in for members of a union.

    Returns:
        The dotted key of a setting that may be of several kinds, of which the error is about one;
        the dotted key of the error; the name that chose among alternative sections, if any.
    """
    parts: list[str] = []
    chosen = whole = None
    inner: dict[str | None, type[BaseModel]] = {None: schema}
    tagged = False
    for part in loc:
        if len(inner) > 1 and part in inner:
            chosen = str(part)
            inner = {None: inner[chosen]}
            continue
        if tagged:
            whole, tagged = ".".join(parts), False
            continue
        parts.append(str(part))
        field = inner[None].model_fields.get(str(part)) if None in inner else None
        inner = sections(field.annotation) if field is not None else {}
        tagged = field is not None and not inner and _kinds(field.annotation) > 1
    if loc and len(inner) > 1:
        parts.append("name")
    return whole, ".".join(parts), chosen


def _kinds(annotation: Any) -> int:
    """Of how many kinds a setting may be, nothing not counted."""
    if get_origin(annotation) not in (Union, UnionType):
        return 1
    return len([one for one in get_args(annotation) if one is not type(None)])


def _unknown_key(key: str, chosen: str | None, schema: type[BaseModel]) -> str:
    section = key.partition(".")[0]
    alternatives = sections(schema.model_fields[section].annotation) if chosen else {}
    owners = [
        str(name)
        for name, model in alternatives.items()
        if key.partition(".")[2] in {*setting_names(model), *model.model_fields}
    ]
    if owners:
        return f"{key} is a setting of {' and '.join(owners)}, not of {chosen}"
    settings = [
        name
        for name in setting_names(schema)
        if not chosen
        or name.partition(".")[0] != section
        or name.partition(".")[2] in set(setting_names(alternatives[chosen]))
    ]
    best = nearest_setting(key, [*_named(key, schema), *settings])
    return f"unknown setting {key}" + (f"; did you mean {best}?" if best else "")


def _named(key: str, schema: type[BaseModel]) -> Iterator[str]:
    """Settings of the section in a mapping of sections that `key` names: `students.small.depth`."""
    parts, model = key.split("."), schema
    for n, part in enumerate(parts[:-2], start=1):
        field = model.model_fields.get(part)
        if field is None:
            return
        inner = list(sections(field.annotation).values())
        for kind in get_args(field.annotation):
            if get_origin(kind) is dict and (named := sections(get_args(kind)[1])):
                yield from setting_names(named[None], f"{'.'.join(parts[: n + 1])}.")
        if len(inner) != 1:
            return
        model = inner[0]
