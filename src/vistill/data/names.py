"""Names and labels of millions of samples as a few arrays, without a Python object for each."""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise, repeat
from typing import Self

import numpy as np
from jaxtyping import Bool, Int, UInt8

BLOCK = 1 << 16
"""Names that are looked at together: what is made for them on the way stays in the cache."""
_LONGEST = 5
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32
SLASH = ord("/")
DOT = ord(".")


class PackedNames:
    """Strings in one byte buffer plus offsets: a quarter of the memory of a list."""

    def __init__(self, names: Iterable[str]) -> None:
        packer = NamePacker()
        for name in names:
            packer.add(name)
        self._text, self._ends = packer.arrays

    @classmethod
    def of(cls, text: np.ndarray, ends: np.ndarray) -> Self:
        """The strings whose `arrays` these are.

        Raises:
            ValueError: they do not belong together.
        """
        if text.dtype != np.uint8 or ends.dtype != np.int64 or text.ndim + ends.ndim != 2:
            raise ValueError("names are bytes and their ends")
        if not len(ends) or ends[0] != 0 or ends[-1] != len(text) or (np.diff(ends) < 0).any():
            raise ValueError("ends of names are not in order")
        names = cls(())
        names._text, names._ends = text, ends
        return names

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 bytes of all strings, and int64 `[n + 1]` where each of them ends, 0 in front."""
        return self._text, self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.lists())

    def lists(self) -> Iterator[list[str]]:
        """Up to `BLOCK` of them at a time."""
        for text, ends, _ in self.blocks():
            raw, edges = text.tobytes(), pairwise([0, *ends.tolist()])
            if raw.isascii():
                letters = raw.decode()
                yield [letters[start:end] for start, end in edges]
            else:
                yield [os.fsdecode(raw[start:end]) for start, end in edges]

    def blocks(self) -> Iterator[tuple[UInt8[np.ndarray, " bytes"], Int[np.ndarray, " k"], int]]:
        """Bytes of up to `BLOCK` names, where each ends in them, and the position of the first."""
        for at in range(0, len(self), BLOCK):
            ends = self._ends[at : at + BLOCK + 1]
            yield self._text[ends[0] : ends[-1]], ends[1:] - ends[0], at

    def digest(self) -> str:
        """Hash of names and their borders."""
        found = hashlib.sha256(self._text.data)
        found.update(self._ends.data)
        return found.hexdigest()[:16]


class NamePacker:
    """Makes `PackedNames` of names that come one by one or in blocks."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, name: str) -> None:
        """One more name."""
        self._text += os.fsencode(name)
        self._ends.append(len(self._text))

    def add_all(self, names: Sequence[str], prefix: str = "") -> None:
        """Many, with the same in front of each."""
        joined = (prefix if names else "") + prefix.join(names)
        if not joined.isascii():
            for name in names:
                self.add(prefix + name)
            return
        ends = np.fromiter(map(len, names), np.int64, len(names)) + len(prefix)
        self.add_block(joined.encode(), ends.cumsum())

    def add_block(
        self,
        text: bytes | UInt8[np.ndarray, " bytes"],
        ends: Int[np.ndarray, " k"],
        front: bytes = b"",
    ) -> None:
        """Many, as their bytes one behind the other and where each of them ends there; `front` is
        put before each."""
        if front and len(ends):
            text, ends = _fronted(np.frombuffer(text, np.uint8), ends, front)
        shifted = ends + len(self._text)
        self._text += text if isinstance(text, bytes) else text.data
        self._ends.frombytes(shifted.astype(np.int64).tobytes())

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """As those of `PackedNames`; nothing can be added any more."""
        return np.frombuffer(self._text, np.uint8), np.frombuffer(self._ends, np.int64)

    def names(self) -> PackedNames:
        """All of them; nothing can be added any more."""
        return PackedNames.of(*self.arrays)


class Coded:
    """Texts of which few differ, such as labels: every text once, and a number for each.

    Attributes:
        texts: those that differ, in the order in which they came.
    """

    def __init__(self, values: Iterable[str | None] = ()) -> None:
        self.texts: list[str | None] = []
        self._numbers: dict[str | None, int] = {}
        self._codes = array("i")
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def codes(self) -> Int[np.ndarray, " n"]:
        """Positions in `texts`; nothing can be added while somebody holds them."""
        return np.frombuffer(self._codes, np.int32)

    def add(self, value: str | None) -> None:
        """One more."""
        self._codes.append(self._number(value))

    def add_same(self, value: str | None, count: int) -> None:
        """Many of the same."""
        if count:
            self._codes.extend(repeat(self._number(value), count))

    def add_block(self, texts: Sequence[str | None], codes: Int[np.ndarray, " k"]) -> None:
        """Many, as positions in texts of their own."""
        numbers = np.array([self._number(text) for text in texts], np.int32)
        if len(codes):
            self._codes.frombytes(numbers[codes].tobytes())

    def counts(self) -> Counter[str | None]:
        """How often each text is there."""
        found = np.bincount(self.codes, minlength=len(self.texts)).tolist() if len(self) else ()
        return Counter(dict(zip(self.texts, found, strict=True)))

    def _number(self, value: str | None) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.texts)
            self.texts.append(value)
        return number


def _fronted(
    text: UInt8[np.ndarray, " bytes"], ends: Int[np.ndarray, " k"], front: bytes
) -> tuple[UInt8[np.ndarray, " more"], Int[np.ndarray, " k"]]:
    """Stretches with the same in front of each."""
    longer = ends + len(front) * np.arange(1, len(ends) + 1)
    starts = np.concatenate([[0], longer[:-1]])
    found, own = np.empty(longer[-1], np.uint8), np.ones(longer[-1], bool)
    for place, letter in enumerate(front):
        found[starts + place], own[starts + place] = letter, False
    found[own] = text
    return found, longer


def cut_out(
    text: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " k"], ends: Int[np.ndarray, " k"]
) -> tuple[UInt8[np.ndarray, " less"], Int[np.ndarray, " k"]]:
    """Stretches of `text`, none of them empty, one behind the other, and where each then ends."""
    edges = np.zeros(len(text) + 1, np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    inside = edges[:-1].cumsum(dtype=np.int8).view(bool)
    return text[inside], (ends - starts).cumsum()


def different(
    text: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " k"], ends: Int[np.ndarray, " k"]
) -> tuple[list[bytes], Int[np.ndarray, " k"]]:
    """The stretches of `text` that differ, and which of them each stretch is."""
    if not len(starts):
        return [], np.zeros(0, np.int32)
    lengths = ends - starts
    # Neighbours are mostly alike: only the first of a row is made an object.
    alike = np.flatnonzero(lengths[1:] == lengths[:-1]) + 1
    at = 0
    while len(going := alike[lengths[alike] > at]):
        same = text[starts[going] + at] == text[starts[going - 1] + at]
        alike = np.concatenate([alike[lengths[alike] <= at], going[same]])
        at += 1
    first = np.ones(len(starts), bool)
    first[alike] = False
    rows = np.flatnonzero(first)
    raw, numbers = text.tobytes(), dict[bytes, int]()
    codes = [
        numbers.setdefault(raw[start:end], len(numbers))
        for start, end in zip(starts[rows].tolist(), ends[rows].tolist(), strict=True)
    ]
    return list(numbers), np.repeat(np.array(codes, np.int32), np.diff(rows, append=len(starts)))


def have_ending(
    text: UInt8[np.ndarray, " bytes"],
    starts: Int[np.ndarray, " k"],
    ends: Int[np.ndarray, " k"],
    endings: Iterable[str],
) -> Bool[np.ndarray, " k"]:
    """Which stretches of `text` surely are names of files with one of `endings` (`.jpg`, of up to
    5 letters) that are not hidden; the others are to be looked at one by one."""
    lengths = ends - starts
    found = np.zeros(len(starts), bool)
    for long in range(2, _LONGEST + 1):
        wanted = {int.from_bytes(one.encode(), "big") for one in endings if len(one) == long}
        if not wanted:
            continue
        rows = np.flatnonzero(~found & (lengths > long))
        key = np.zeros(len(rows), np.int64)
        for back in range(long, 0, -1):
            key = (key << 8) | _LOWER[text[ends[rows] - back]]
        hit = np.zeros(len(rows), bool)
        for one in wanted:
            hit |= key == one
        found[rows[hit]] = True
    # A dot behind a slash is a hidden file, and the folder __MACOSX is not meant; both are rare.
    dots = np.flatnonzero(text == DOT)
    odd = dots[(dots == 0) | (text[dots - 1] == SLASH)]
    under = np.flatnonzero(text[:-2] == ord("_"))
    under = under[(text[under + 1] == ord("_")) & (text[under + 2] == ord("M"))]
    odd = np.sort(np.concatenate([odd, under]))
    if len(odd):
        found &= np.searchsorted(odd, starts) == np.searchsorted(odd, ends)
    at_start = np.minimum(starts, max(len(text) - 1, 0))
    return found & (text[at_start] != DOT) if len(text) else found


def slashes(
    text: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " k"], ends: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
    """Where the first `/` of every stretch is, -1 for none; and whether there is another."""
    where = np.append(np.flatnonzero(text == SLASH), [len(text), len(text)])
    nth = np.minimum(np.searchsorted(where, starts), len(where) - 2)
    first = where[nth]
    return np.where(first < ends, first, -1), where[nth + 1] < ends


def common_folders(names: PackedNames, skip: int | Int[np.ndarray, " n"] = 0) -> int:
    """Bytes, behind those to skip, of the folders that all files lie in, with their last `/`."""
    shared: bytes | None = None
    for text, ends, at in names.blocks():
        starts = np.concatenate([[0], ends[:-1]])
        starts += skip if isinstance(skip, int) else skip[at : at + len(ends)]
        if shared is None:
            shared = _folder(text[starts[0] : ends[0]].tobytes())
        while shared:
            nth = _without(text, starts, ends, shared)
            if nth is None:
                break
            other = _folder(text[starts[nth] : ends[nth]].tobytes())
            while not other.startswith(shared):
                shared = _folder(shared[:-1])
    return len(shared or b"")


def _folder(path: bytes) -> bytes:
    return path[: path.rfind(b"/") + 1]


def _without(
    text: UInt8[np.ndarray, " bytes"],
    starts: Int[np.ndarray, " k"],
    ends: Int[np.ndarray, " k"],
    front: bytes,
) -> int | None:
    """The first stretch that does not begin with `front`."""
    fits = ends - starts >= len(front)
    for place, byte in enumerate(front):
        fits[fits] = text[starts[fits] + place] == byte
    return None if fits.all() else int(fits.argmin())
