"""Paths that name several files: braces as in a shell, and globs."""

import glob
import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from vistill.errors import UserError

MOST = 1_000_000
_BRACES = re.compile(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}")


def matching(pattern: str) -> list[Path]:
    """The files and folders that `pattern` names: `*`, `?`, `[…]` and `**` match what is there,
    `{a,b}` and `{0000..0099}` name what has to be there.

    Returns:
        Nothing where it has neither, or nothing matches.

    Raises:
        UserError: some of what braces name is missing.
    """
    names = expand_braces(pattern)
    found: list[Path] = []
    lacking = []
    for name in names:
        if Path(name).exists():
            found.append(Path(name))
        elif glob.has_magic(name):
            found += map(Path, sorted(glob.glob(name, recursive=True)))
        else:
            lacking.append(name)
    if found and lacking:
        raise UserError(
            f"'{pattern}' names {len(names)} files, of which {len(lacking)} do not exist, such as "
            f"'{lacking[0]}'"
        )
    return list(dict.fromkeys(found))


def expand_braces(pattern: str) -> list[str]:
    """Every name of a pattern with `{a,b}` and `{00..99}` (with leading zeros where it has them).

    Raises:
        UserError: more than a million.
    """
    names = {pattern: None}
    while any(_BRACES.search(name) for name in names):
        names = {name: None for one in names for name in _expand_innermost(one)}
        if len(names) > MOST:
            raise _too_many(pattern)
    return list(names)


def _expand_innermost(pattern: str) -> Iterator[str]:
    """Every name of a pattern, whose braces may lie in braces that are left as they are."""
    parts = _BRACES.split(pattern)
    texts, choices = parts[::2], [_choices(inside) for inside in parts[1::2]]
    if math.prod(map(len, choices)) > MOST:
        raise _too_many(pattern)
    for chosen in product(*choices):
        yield "".join(text + word for text, word in zip(texts, [*chosen, ""], strict=True))


def _choices(inside: str) -> Sequence[str]:
    """The words of `a,b` or the numbers of `00..99`."""
    if "," in inside:
        return inside.split(",")
    first, last = inside.split("..")
    low, high = int(first), int(last)
    if abs(high - low) >= MOST:
        raise _too_many(f"{{{inside}}}")
    width = len(first) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if low <= high else -1
    return [f"{number:0{width}}" for number in range(low, high + step, step)]


def _too_many(pattern: str) -> UserError:
    return UserError(f"'{pattern}' names more than {MOST} files")
