"""What a source of pictures or clips is, and how all of them keep names and labels."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

from vistill.data.names import Coded, PackedNames, different, slashes
from vistill.data.stamps import Stamps, file_stamps
from vistill.data.video.proof import Proof
from vistill.errors import UserError

JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
PNM_SUFFIXES = {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
JPEG_2000_SUFFIXES = {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
IMAGE_SUFFIXES = (
    JPEG_SUFFIXES
    | PNM_SUFFIXES
    | JPEG_2000_SUFFIXES
    | {".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".tga", ".qoi"}
)
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
"""Endings of pictures that count where the decoder `HEIF_MODULE` is installed."""
HEIF_MODULE = "pillow_heif"
MPEG_SUFFIXES = {".mp4", ".m4v", ".f4v", ".mov", ".qt", ".3gp", ".3g2", ".mpg", ".mpeg", ".mpe",
                 ".m2p", ".vob", ".mod", ".tod", ".ts", ".mts", ".m2t", ".m2ts"}  # fmt: skip
VIDEO_SUFFIXES = MPEG_SUFFIXES | {".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".ogv",
                                  ".ogm", ".rm", ".rmvb", ".dv", ".mxf", ".gif"}  # fmt: skip


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
        # What is not hidden has more than dots before its last, so this is its `suffix`.
        return name[name.rfind(".") :].lower() in self.suffixes and not hidden(name)


def hidden(name: str) -> bool:
    """Whether a file is hidden, or one of macOS's doubles."""
    return ((name.startswith(".") or "/." in name) and name.rpartition("/")[2].startswith(".")) or (
        "__MACOSX" in name and "__MACOSX" in name.split("/")
    )


def suffix(name: str) -> str:
    """The ending of a file's name in small letters, with its dot; empty where there is none."""
    return os.path.splitext(name)[1].lower()


PICTURES = Media(
    noun="picture",
    suffixes=frozenset(IMAGE_SUFFIXES | (HEIF_SUFFIXES if find_spec(HEIF_MODULE) else set())),
    looked_for=".jpg, .png, .webp, .tif, .gif, .bmp and other picture files",
    hint="pictures are read where data.frames is left out",
)
CLIPS = Media(
    noun="clip",
    suffixes=frozenset(VIDEO_SUFFIXES),
    looked_for=".mp4, .mkv, .webm, .avi, .mov, .ts and other video files",
    hint="clips are read where data.frames says how many frames they have, such as data.frames=16",
)


NO_CLASS = frozenset({"-1", "-1.0", "nan"})
"""What stands in lists and shards for a label that is not known, in small letters."""
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "unlabeled"}
"""Usual names of folders that are parts of a collection, not classes."""


class Unlabelled(NamedTuple):
    """Why samples have no labels.

    Attributes:
        reason: a sentence about them, without a full stop.
        meant: whether something is there that looks as if it told classes.
    """

    reason: str
    meant: bool


class Decoding(NamedTuple):
    """How the pictures of a source are to be understood.

    Attributes:
        value_range: numbers that are black and white in pictures of more than 8 bits; None: 0 and
            65535, of floats 0 and 1.
        allow_truncated: use JPEGs of which nothing but the end marker is missing.
    """

    value_range: tuple[float, float] | None = None
    allow_truncated: bool = False


class Stretch(NamedTuple):
    """A part of a video.

    Attributes:
        start: where it begins, counted from 0.
        end: where it is over; what lies there is no part of it.
        unit: of both: seconds, or frames.
    """

    start: float
    end: float
    unit: Literal["s", "frames"] = "s"

    def __str__(self) -> str:
        if self.unit == "frames":
            return f"frames {self.start:.0f} to {self.end - 1:.0f}"
        return f"{self.start:g} s to {self.end:g} s"


class Source(Protocol):
    """Pictures or videos by position, with labels where they are known.

    Attributes:
        name: the path it was opened from.
        media: what the samples are.
        classes: class names in label order, or None.
        labels: int64 `[n]` class indices, -1 where unknown, or None.
        unlabelled: why there are no labels, where that is known.
        notes: sentences on what was left out or read in a way that may surprise.
        decoding: how its pictures are to be understood.
        splits: part of the collection that each sample belongs to, or None.
        captions: what is said of each sample, or None.
    """

    decoding: Decoding
    splits: Sequence[str | None] | None
    captions: Sequence[Sequence[str]] | None
    name: str
    media: Media
    classes: list[str] | None
    labels: np.ndarray | None
    unlabelled: Unlabelled | None
    notes: list[str]

    def __len__(self) -> int: ...

    def sample_name(self, i: int) -> str:
        """Name of sample `i`, as a person would look for it."""
        ...

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`; raises BrokenImage where they cannot be read."""
        ...

    def place(self, i: int) -> str | bytes:
        """Path of sample `i` where it is a file, or a folder of frames, of its own, else its
        bytes."""
        ...

    def span(self, i: int) -> Stretch | None:
        """The part of video `i` that is the sample; None: all of it."""
        ...

    def proof(self, i: int) -> Proof | None:
        """What `vistill prepare` found out about reaching the frames of video `i`."""
        ...

    def fingerprint(self) -> str:
        """Count and hash of all names: differs when samples were added, removed or renamed."""
        ...

    def stamps(self) -> Stamps:
        """What differs when the content of a sample does, see `vistill.data.stamps`."""
        ...


class NamedSource:
    """The part of a Source that follows from its names.

    Attributes:
        proofs: column of an index (pyarrow), or None.
        watched: files and folders of which one has changed where names or labels have; None where
            nobody can tell.
    """

    def __init__(self, name: str, names: PackedNames, media: Media = PICTURES) -> None:
        self.name = name
        self.names = names
        self.media = media
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        self.unlabelled: Unlabelled | None = None
        self.notes: list[str] = []
        self.proofs: Any = None
        self.watched: Sequence[str] | None = None
        self.decoding = Decoding()
        self.splits: Sequence[str | None] | None = None
        self.captions: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def sample_name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`."""
        raise NotImplementedError

    def place(self, i: int) -> str | bytes:
        return self.read(i)

    def span(self, i: int) -> Stretch | None:
        return None

    def proof(self, i: int) -> Proof | None:
        told = None if self.proofs is None else self.proofs[i].as_py()
        return None if told is None else Proof.of(told)

    def fingerprint(self) -> str:
        return f"{len(self.names)} named {self.names.digest()}"

    def stamps(self) -> Stamps:
        """What differs when the content of a sample does, see `vistill.data.stamps`."""
        if len(self) and isinstance(self.place(0), str):
            return file_stamps(str(self.place(i)) for i in range(len(self)))
        return np.zeros((len(self), 2), dtype=np.int64)

    def label_by_folders(self, skip: int | Int[np.ndarray, " n"] = 0) -> None:
        """Labels from the first-level folders of the names, see `folder_classes`."""
        found = folder_classes(self.names, skip)
        if isinstance(found, Unlabelled):
            self.unlabelled = found
        else:
            self.classes, self.labels = encode_labels(found, no_class=())


def folder_classes(names: PackedNames, skip: int | Int[np.ndarray, " n"] = 0) -> Coded | Unlabelled:
    """The class of every name, when all are `class/file` and there are at least two classes.

    One folder for everything says nothing, and a deeper tree (`train/class/file`) is not read as a
    tree of classes because its first level usually names a split.

    Args:
        names: of all samples.
        skip: bytes at the front of names that do not count, one number for all or one for each.
    """
    found = Coded()
    loose, deep = _Some(), _Some()
    for text, ends, at in names.blocks():
        starts = np.concatenate([[0], ends[:-1]])
        starts += skip if isinstance(skip, int) else skip[at : at + len(ends)]
        first, more = slashes(text, starts, ends)
        for some, which in ((loose, first < 0), (deep, more)):
            if which.any():
                nth = int(which.argmax())
                some.add(os.fsdecode(text[starts[nth] : ends[nth]].tobytes()), int(which.sum()))
        above, codes = different(text, starts, np.where(first < 0, starts, first))
        found.add_block([os.fsdecode(folder) for folder in above], codes)
    folders = sorted({folder for folder in found.texts if folder})
    if not folders:
        return Unlabelled("none of its files lies in a folder of its class", meant=False)
    if loose:
        are, them = ("lies", "it") if len(loose) == 1 else ("lie", "them")
        return Unlabelled(
            f"{loose} {are} beside the folders: move {them} into a folder of one class, or away",
            meant=True,
        )
    if len(folders) == 1:
        give = f": give that folder, '{folders[0]}'" if deep else ""
        return Unlabelled(
            f"all its files lie in one folder, '{folders[0]}'{give}", meant=bool(deep)
        )
    if {folder.lower() for folder in folders} <= SPLITS:
        return Unlabelled(f"its folders are parts ({', '.join(folders)}): give one", meant=True)
    if not deep:
        return found
    are = "lies" if len(deep) == 1 else "lie"
    return Unlabelled(
        f"{deep} {are} in a folder inside a folder, and a class is a folder with nothing but files "
        "in it: move its files up, or give the folder above the classes",
        meant=True,
    )


class _Some:
    """How many names there are, and the first of them."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, name: str, count: int) -> None:
        self.first = self.first or name
        self.count += count

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        more = self.count - 1
        return f"'{self.first}'" + (f" and {more} other{'s' * (more > 1)}" if more else "")


def encode_labels(
    values: Iterable[str | None] | Coded | None, no_class: Collection[str] = NO_CLASS
) -> tuple[list[str] | None, np.ndarray | None]:
    """Class names in order and one index per value (-1 for None, empty and `no_class`).

    Numbers are sorted as numbers, everything else as text; the same set of names therefore gets the
    same indices in every source.
    """
    coded = values if isinstance(values, Coded) else Coded(values or ())
    known = {value for value in coded.texts if value and value.lower() not in no_class}
    if not known:
        return None, None
    key: Callable[[str], int | str] = str
    if all(value.isdecimal() for value in known):
        key = int
    classes = sorted(known, key=key)
    index: dict[str | None, int] = {value: i for i, value in enumerate(classes)}
    numbers = np.array([index.get(value, -1) for value in coded.texts], dtype=np.int64)
    return classes, numbers[coded.codes]


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
