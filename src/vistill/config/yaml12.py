"""Reads YAML by the scalar rules of YAML 1.2: `3e-4` is a number, `no` is a word, `012` is 12."""

import re
from typing import Any

import yaml

from vistill.errors import UserError

Scalar = None | bool | int | float | str

_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_PLAIN = "tag:vistill,plain"


def parse_scalar(text: str) -> Scalar:
    """What an unquoted word means (YAML 1.2 core schema, integers before floats)."""
    if text in _WORDS or text in ("Null", "NULL", "True", "TRUE", "False", "FALSE"):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        if text[:2] in ("0o", "0x"):
            return int(text, 0)
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


_Loader.add_constructor(_PLAIN, lambda loader, node: parse_scalar(node.value))


def load_yaml(text: str, name: str) -> Any:
    """Parse one document.

    Raises:
        UserError: the text is not YAML or sets a key twice; told with `name` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{name}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not readable YAML: {error}") from None
