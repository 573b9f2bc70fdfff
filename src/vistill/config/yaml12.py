"""Reads and writes YAML by the scalar rules of YAML 1.2: `3e-4` is a number, `no` is a word, `012`
is 12."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from vistill.errors import UserError

Scalar = None | bool | int | float | str

_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_PLAIN = "tag:vistill,plain"
_MOST_DIGITS, _DEEPEST, _MOST_VALUES, _LARGEST = 400, 40, 100_000, 2**20


def parse_scalar(text: str) -> Scalar:
    """What an unquoted word means (YAML 1.2 core schema, integers before floats).

    Raises:
        ValueError: a whole number that nobody means.
    """
    if text in _WORDS or text in ("Null", "NULL", "True", "TRUE", "False", "FALSE"):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        if text[:2] in ("0o", "0x"):
            return int(text, 0)
        if len(text) > _MOST_DIGITS:
            raise ValueError(f"a whole number of {len(text)} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose YAML 1.1 guesses about unquoted words are replaced by ours."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{name!r} is set twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _construct_plain(loader: yaml.SafeLoader, node: Any) -> Scalar:
    try:
        return parse_scalar(node.value)
    except ValueError as error:
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


_Loader.add_constructor(_PLAIN, _construct_plain)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes what the loader above would not read as a word."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            read = parse_scalar(value)
            for python, tag in _TAGS.items():
                if type(read) is python:
                    return f"tag:yaml.org,2002:{tag}"
        return super().resolve(kind, value, implicit)


_TAGS = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}


def dump_yaml(content: Any) -> str:
    """The text that `load_yaml` reads as `content`, plain data in its order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def load_yaml(text: str, name: str) -> Any:
    """Parse one document.

    Raises:
        UserError: the text is not YAML, sets a key twice, or is larger or deeper than settings are;
            told with `name` and the line.
    """
    if len(text) > _LARGEST:
        raise UserError(f"{name} holds {len(text) / 1e6:.1f} million characters: no settings")
    try:
        _check_extent(text)
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{name}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not readable YAML: {error}") from None


def _check_extent(text: str) -> None:
    """Raise a MarkedYAMLError where nesting or repeated aliases would exhaust stack or memory."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        problem, anchor, size = None, getattr(event, "anchor", None), 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1))
            if len(open_) > _DEEPEST:
                problem = f"nested more than {_DEEPEST} levels deep"
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 0)
            if any(anchor == event.anchor for anchor, _ in open_):
                problem = f"*{event.anchor} contains itself"
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        open_[-1] = open_[-1][0], open_[-1][1] + size
        if open_[-1][1] > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES:,} values"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
