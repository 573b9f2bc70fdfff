"""What a source of pictures is, and the compact storage of names and labels that all share."""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from vistill.errors import UserError

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
OTHER_SUFFIXES = {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".tga"}
IMAGE_SUFFIXES = JPEG_SUFFIXES | OTHER_SUFFIXES | {".ppm", ".pgm", ".pbm", ".pnm"}
LOOKED_FOR = ".jpg, .png, .webp, .tif, .gif, .bmp and other picture files"


class Source(Protocol):
    """Pictures by position, with labels where they are known.

    Attributes:
        name: the path it was opened from.
        classes: class names in label order, or None.
        labels: int64 `[n]` class indices, -1 where unknown, or None.
    """

    name: str
    classes: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def sample_name(self, i: int) -> str:
        """Name of picture `i`, as a person would look for it."""
        ...

    def read(self, i: int) -> bytes:
        """Encoded bytes of picture `i`; raises BrokenImage where they cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Count and hash of all names: differs when pictures were added, removed or renamed."""
        ...


class PackedNames:
    """Strings in one byte buffer plus offsets: a quarter of the memory of a list."""

    def __init__(self, names: Iterable[str]) -> None:
        text = bytearray()
        ends = array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        self._text = np.frombuffer(bytes(text), dtype=np.uint8)
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def digest(self) -> str:
        """Hash of names and their borders."""
        return hashlib.sha256(self._text.tobytes() + self._ends.tobytes()).hexdigest()[:16]


class NamedSource:
    """The part of a Source that follows from its names."""

    def __init__(self, name: str, names: PackedNames) -> None:
        self.name = name
        self.names = names
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def sample_name(self, i: int) -> str:
        return self.names[i]

    def fingerprint(self) -> str:
        return f"{len(self.names)} named {self.names.digest()}"


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's; hidden files (and macOS doubles) do not count."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES


def folder_classes(names: Iterable[str]) -> list[str] | None:
    """The class of every name, when all are `class/file` and there are at least two classes.

    One folder for everything says nothing, and a deeper tree (`train/class/file`) is not read as a
    tree of classes because its first level usually names a split.
    """
    found = []
    for name in names:
        folder, slash, rest = name.partition("/")
        if not slash or "/" in rest:
            return None
        found.append(folder)
    return found if len(set(found)) > 1 else None


def encode_labels(
    values: Sequence[str | None] | None,
) -> tuple[list[str] | None, np.ndarray | None]:
    """Class names in order and one index per value (-1 for None or empty).

    Numbers are sorted as numbers, everything else as text; the same set of names therefore gets the
    same indices in every source.
    """
    known = {value for value in values or () if value}
    if values is None or not known:
        return None, None
    key: Callable[[str], int | str] = str
    if all(value.isdecimal() for value in known):
        key = int
    classes = sorted(known, key=key)
    index: dict[str | None, int] = {value: i for i, value in enumerate(classes)}
    return classes, np.fromiter((index.get(value, -1) for value in values), np.int64, len(values))


def folder_labels(names: Iterable[str]) -> tuple[list[str] | None, np.ndarray | None]:
    """Class names and labels by first-level folder, see `folder_classes` and `encode_labels`."""
    return encode_labels(folder_classes(names))


def missing(path: Path) -> UserError:
    """The error for a path that is not there, with the sibling that is spelt most like it."""
    parent = path.absolute()
    wanted = parent.name
    while not parent.parent.is_dir():
        parent = parent.parent
        wanted = parent.name
    near = get_close_matches(wanted, os.listdir(parent.parent), n=1)
    hint = f"; did you mean '{parent.parent / near[0]}'?" if near else ""
    return UserError(f"'{path}' does not exist{hint}")


def no_pictures(where: str, others: int, example: str) -> UserError:
    """The error for a place without a single picture."""
    held = f"; it holds {others} other files such as '{example}'" if others else ""
    return UserError(f"no picture in '{where}' (looked for {LOOKED_FOR}){held}")
