"""What a source of pictures or clips is, and how all of them keep names and labels."""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from vistill.errors import UserError

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}
OTHER_SUFFIXES = {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".tga"}
IMAGE_SUFFIXES = JPEG_SUFFIXES | OTHER_SUFFIXES | {".ppm", ".pgm", ".pbm", ".pnm"}
MPEG_SUFFIXES = {".mp4", ".m4v", ".mov", ".3gp", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob"}
VIDEO_SUFFIXES = MPEG_SUFFIXES | {".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv", ".gif"}


@dataclass(frozen=True)
class Media:
    """Which files of a folder, list or archive are samples.

    Attributes:
        noun: one of them in a sentence.
        suffixes: endings of their files.
        looked_for: the same for people.
        hint: what to do where only files of the other kind are found.
    """

    noun: str
    suffixes: frozenset[str]
    looked_for: str
    hint: str

    def holds(self, name: str) -> bool:
        """Whether a file name ends like one of these; hidden files (and macOS doubles) do not
        count."""
        path = PurePosixPath(name)
        hidden = path.name.startswith(".") or "__MACOSX" in path.parts
        return not hidden and path.suffix.lower() in self.suffixes


PICTURES = Media(
    noun="picture",
    suffixes=frozenset(IMAGE_SUFFIXES),
    looked_for=".jpg, .png, .webp, .tif, .gif, .bmp and other picture files",
    hint="pictures are read where data.frames is left out",
)
CLIPS = Media(
    noun="clip",
    suffixes=frozenset(VIDEO_SUFFIXES),
    looked_for=".mp4, .mkv, .webm, .avi, .mov, .ts and other video files",
    hint="clips are read where data.frames says how many frames they have, such as data.frames=16",
)


class Others:
    """Files that are no samples, for the error that there are none."""

    def __init__(self) -> None:
        self.count, self.example, self.hint = 0, "", ""

    def add(self, name: str) -> None:
        """Count a file; one of the other kind is the better example."""
        self.count += 1
        other = next((kind for kind in (PICTURES, CLIPS) if kind.holds(name)), None)
        if other is not None or not self.hint:
            self.example, self.hint = name, "" if other is None else f"; {other.hint}"


class Source(Protocol):
    """Pictures or videos by position, with labels where they are known.

    Attributes:
        name: the path it was opened from.
        media: what the samples are.
        classes: class names in label order, or None.
        labels: int64 `[n]` class indices, -1 where unknown, or None.
    """

    name: str
    media: Media
    classes: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def sample_name(self, i: int) -> str:
        """Name of sample `i`, as a person would look for it."""
        ...

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`; raises BrokenImage where they cannot be read."""
        ...

    def place(self, i: int) -> str | bytes:
        """Path of sample `i` where it is a file of its own, else its bytes."""
        ...

    def span(self, i: int) -> tuple[float, float] | None:
        """Start and end in seconds of the part of video `i` that is the sample; None: all of it."""
        ...

    def fingerprint(self) -> str:
        """Count and hash of all names: differs when samples were added, removed or renamed."""
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

    def __init__(self, name: str, names: PackedNames, media: Media = PICTURES) -> None:
        self.name = name
        self.names = names
        self.media = media
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def sample_name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`."""
        raise NotImplementedError

    def place(self, i: int) -> str | bytes:
        return self.read(i)

    def span(self, i: int) -> tuple[float, float] | None:
        return None

    def fingerprint(self) -> str:
        return f"{len(self.names)} named {self.names.digest()}"


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


def no_samples(media: Media, where: str, others: Others) -> UserError:
    """The error for a place without a single picture or clip."""
    held = ""
    if others.count:
        held = f"; it holds {others.count} other files such as '{others.example}'{others.hint}"
    return UserError(f"no {media.noun} in '{where}' (looked for {media.looked_for}){held}")
