"""Where the members of a plain `.tar` lie, read from its headers alone.

Python's own module makes an object of every header, which takes 25 µs. Here headers of the usual
kinds (files, folders, long names of GNU's and POSIX's forms) are looked at in blocks; from the
first other one on the module reads the archive.
"""

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from vistill.data.names import PackedNames
from vistill.data.passed_over import PassedOver
from vistill.errors import UserError

COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
ODD = "member that is no file"
_UNIT = tarfile.BLOCKSIZE
_READ = 4096
_TOGETHER = 1024
"""Headers whose sums are checked at a time."""
_LARGEST = 1 << 16
"""Bytes above which a long name is not usual."""
_NAME, _KIND = 100, 156
_SIZE, _CHECKSUM, _PREFIX = slice(124, 135), slice(148, 156), slice(345, 500)
_CHECKSUM_LENGTH = 8
_FILES, _FOLDER, _LONG, _TOLD = b"0\0", ord("5"), ord("L"), b"Lx"
_SLASH = ord("/")
_HALVES = np.uint64(0x00FF00FF00FF00FF)
_RECORD = re.compile(rb"(\d+) ([^=]+)=")
_UNUSUAL = (b"GNU.sparse", b"hdrcharset")


class Members(NamedTuple):
    """Regular files of an archive.

    Attributes:
        text: bytes of all names.
        ends: where each of them ends there.
        offsets, sizes: of their content in the archive.
    """

    text: UInt8[np.ndarray, " bytes"]
    ends: Int[np.ndarray, " k"]
    offsets: Int[np.ndarray, " k"]
    sizes: Int[np.ndarray, " k"]

    def one_by_one(self) -> Iterator[tuple[str, int, int]]:
        """Name, offset and size of each."""
        names = PackedNames.of(self.text, np.concatenate([[0], self.ends]))
        yield from zip(names, self.offsets.tolist(), self.sizes.tolist(), strict=True)


def tar_members(file: Path, passed: PassedOver | None = None) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every regular file, see `tar_blocks`."""
    for members in tar_blocks(file, passed):
        yield from members.one_by_one()


def tar_blocks(file: Path, passed: PassedOver | None = None) -> Iterator[Members]:
    """Every regular file, some at a time; `passed` gets links and the like.

    Raises:
        UserError: it is compressed, damaged or no tar.
    """
    try:
        with open(file, "rb") as raw:
            if raw.read(6).startswith(COMPRESSED_TAR):
                raise UserError(
                    f"'{file}' is a compressed tar, which cannot be read in random order; unpack "
                    "it to a plain .tar or to a folder"
                )
            usual = _Usual(raw)
            yield from usual.members()
            raw.seek(usual.place)
            others = _others(raw, passed)
            while some := list(islice(others, _TOGETHER)):
                names, offsets, sizes = zip(*some, strict=True)
                text, ends = PackedNames(names).arrays
                yield Members(text, ends[1:], np.array(offsets), np.array(sizes))
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"'{file}' is damaged or no tar: {error}") from error


def _others(raw: BinaryIO, passed: PassedOver | None) -> Iterator[tuple[str, int, int]]:
    """Members from the place of `raw` on, by Python's own module."""
    with tarfile.open(fileobj=raw, mode="r:") as archive:
        while (member := archive.next()) is not None:
            # Or the archive keeps every header it has seen: a gigabyte for a million members.
            archive.members = []  # type: ignore[attr-defined]
            if member.isreg():
                yield member.name, member.offset_data, member.size
            elif passed is not None and not member.isdir():
                passed.add_odd(member.name, "link" if member.islnk() or member.issym() else ODD)


class _Usual:
    """Headers of the usual kinds from the front of an archive on.

    Attributes:
        place: the first header that has not been read.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.place = 0
        self._handle, self._length = raw.fileno(), os.fstat(raw.fileno()).st_size
        self._at, self._buffer = 0, b""

    def members(self) -> Iterator[Members]:
        """Until something unusual, or the end, comes."""
        going = True
        while going:
            start = self.place
            going, heads, rows, longs, sizes, offsets = self._heads()
            table = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, _UNIT)
            names = _names(table[rows] if len(rows) < len(table) else table, longs)
            if names is None or not _right_sums(table):
                self.place = start
                return
            if rows:
                yield Members(*names, np.array(offsets), np.array(sizes))
            if self.place > self._length:
                raise tarfile.ReadError("unexpected end of data")

    def _heads(self) -> tuple[bool, list[bytes], list[int], dict[int, bytes], list[int], list[int]]:
        """Some headers in a row.

        Returns:
            Whether there may be more; the headers; which of them are files; names of files that
            have longer ones than a header holds; sizes and offsets of the files.
        """
        heads, rows, longs = list[bytes](), list[int](), dict[int, bytes]()
        sizes, offsets = list[int](), list[int]()
        while len(heads) < _TOGETHER:
            place, before = self.place, len(heads)
            start = place - self._at
            try:
                head = self._buffer[start : start + _UNIT] if start >= 0 else b""
                if len(head) < _UNIT:
                    head = self._read(place, _UNIT)
                kind = head[_KIND]
                size, name = int(head[_SIZE], 8), None
                if kind in _TOLD:
                    heads.append(head)
                    name, told = self._told(kind, size)
                    head = self._read(self.place, _UNIT)
                    kind = head[_KIND]
                    size = int(head[_SIZE], 8) if told is None else told
                if not head[0] or (kind not in _FILES and kind != _FOLDER):
                    raise ValueError("another kind")
            except ValueError:
                del heads[before:]
                self.place = place
                return False, heads, rows, longs, sizes, offsets
            self.place += _UNIT
            if kind != _FOLDER:
                if name is not None:
                    longs[len(rows)] = name
                rows.append(len(heads))
                sizes.append(size)
                offsets.append(self.place)
                self.place += (size + _UNIT - 1) // _UNIT * _UNIT
            heads.append(head)
        return True, heads, rows, longs, sizes, offsets

    def _told(self, kind: int, size: int) -> tuple[bytes | None, int | None]:
        """Name and size of the next file, as far as a header before it tells them."""
        if not 0 < size <= _LARGEST:
            raise ValueError("too large")
        self.place += _UNIT
        told = self._read(self.place, size)
        self.place += (size + _UNIT - 1) // _UNIT * _UNIT
        return (told.partition(b"\0")[0], None) if kind == _LONG else _facts(told)

    def _read(self, place: int, size: int) -> bytes:
        start = place - self._at
        if start < 0 or start + size > len(self._buffer):
            self._at, start = place, 0
            self._buffer = os.pread(self._handle, max(size, _READ), place)
        found = self._buffer[start : start + size]
        if len(found) < size:
            raise ValueError("the archive ends before it")
        return found


def _names(
    table: UInt8[np.ndarray, "k 512"], longs: Mapping[int, bytes]
) -> tuple[UInt8[np.ndarray, " bytes"], Int[np.ndarray, " k"]] | None:
    """The names in some headers, where not others are told; None: one of them is a folder."""
    zero = table[:, :_NAME] == 0
    lengths = np.where(zero.any(axis=1), zero.argmax(axis=1), _NAME)
    text = table[:, :_NAME][np.arange(_NAME) < lengths[:, None]]
    ends = lengths.cumsum()
    other = dict(longs)
    for i in np.flatnonzero(table[:, _PREFIX.start]).tolist():
        front = table[i, _PREFIX].tobytes().partition(b"\0")[0]
        other.setdefault(i, front + b"/" + text[ends[i] - lengths[i] : ends[i]].tobytes())
    if other:
        raw, starts = text.tobytes(), ends - lengths
        found = [raw[start:end] for start, end in zip(starts, ends, strict=True)]
        for i, name in other.items():
            found[i] = name
        text = np.frombuffer(b"".join(found), np.uint8)
        ends = np.fromiter(map(len, found), np.int64, len(found)).cumsum()
    return None if len(ends) and (text[ends - 1] == _SLASH).any() else (text, ends)


def _facts(told: bytes) -> tuple[bytes | None, int | None]:
    """Name and size in a header of POSIX's long form, where they are there."""
    name, size, place = None, None, 0
    while place < len(told):
        record = _RECORD.match(told, place)
        if record is None:
            raise ValueError("no record")
        key, value = record[2], told[record.end() : place + int(record[1]) - 1]
        place = max(record.end(), place + int(record[1]))
        if key == b"path":
            value.decode()
            name = value
        elif key == b"size":
            size = int(value)
        elif key.startswith(_UNUSUAL):
            raise ValueError("an unusual record")
    return name, size


def _right_sums(table: UInt8[np.ndarray, "k 512"]) -> bool:
    """Whether every header has the sum that it tells."""
    told, done = np.zeros(len(table), np.int64), np.zeros(len(table), bool)
    for digit in table[:, _CHECKSUM].T:
        octal = (digit & 0xF8) == ord("0")
        done |= ~octal & (told > 0)
        told = np.where(octal & ~done, 8 * told + (digit & 7), told)
    words = table.view(np.uint64)
    pairs = ((words & _HALVES) + ((words >> np.uint64(8)) & _HALVES)).sum(axis=1, dtype=np.uint64)
    sums = pairs[:, None].view(np.uint16).sum(axis=1, dtype=np.int64)
    sums += _CHECKSUM_LENGTH * ord(" ") - table[:, _CHECKSUM].sum(axis=1, dtype=np.int64)
    return bool((sums == told).all())
