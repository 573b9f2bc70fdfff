"""Pictures and clips inside archives: `.tar` shards (WebDataset naming or folders) and `.zip`.

An archive is indexed once; afterwards every picture is one seek and one read, in any order.
"""

import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from vistill.data.broken import BrokenImage
from vistill.data.source import (
    PICTURES,
    Media,
    NamedSource,
    Others,
    PackedNames,
    encode_labels,
    folder_classes,
    folder_labels,
    no_samples,
)
from vistill.errors import UserError

OPEN_FILES = 64
COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
LOCAL_HEADER = 30


class ArchiveSource(NamedSource):
    """Members of one or more archives by byte offset.

    File handles are opened on first use and never shared between processes, because a seek in one
    would move the other.
    """

    def __init__(
        self, name: str, files: list[Path], names: PackedNames, places: np.ndarray, media: Media
    ) -> None:
        super().__init__(name, names, media)
        self._files = [os.path.abspath(file) for file in files]
        self._places = places
        self._handles: dict[int, BinaryIO] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def _read_at(self, file: int, offset: int, size: int) -> bytes:
        if self._pid != os.getpid():
            self._handles, self._pid = {}, os.getpid()
        try:
            if file not in self._handles:
                if len(self._handles) >= OPEN_FILES:
                    self._handles.pop(next(iter(self._handles))).close()
                self._handles[file] = open(self._files[file], "rb")  # noqa: SIM115
            handle = self._handles[file]
            handle.seek(offset)
            data = handle.read(size)
        except OSError as error:
            raise BrokenImage(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise BrokenImage("the archive ends before it")
        return data


class ShardSource(ArchiveSource):
    """Members stored as they are; their places are rows of (file, offset, size)."""

    def read(self, i: int) -> bytes:
        file, offset, size = self._places[i].tolist()
        return self._read_at(file, offset, size)


class TarSource(ShardSource):
    """Plain `.tar` shards. Labels come from `.cls` members of the same key, else from folders."""

    def __init__(self, name: str, files: list[Path], media: Media = PICTURES) -> None:
        names: list[str] = []
        labels: list[str | None] = []
        places = array("q")
        others = Others()
        for number, file in enumerate(files):
            classes: dict[str, str] = {}
            start = len(names)
            for member, offset, size, text in tar_members(file):
                if media.holds(member):
                    names.append(member.removeprefix("./").lstrip("/"))
                    places.extend((number, offset, size))
                elif text is not None:
                    classes[_key(member.removeprefix("./").lstrip("/"))] = text
                else:
                    others.add(member)
            labels += [classes.get(_key(sample)) for sample in names[start:]]
        if not names:
            raise no_samples(media, name, others)
        shards = [file.name for file in files]
        table = np.array(places, dtype=np.int64).reshape(-1, 3)
        shown = names
        if len(files) > 1:
            shown = [f"{shards[n]}/{x}" for n, x in zip(table[:, 0], names, strict=True)]
        super().__init__(name, files, PackedNames(shown), table, media)
        folders = folder_classes(_without_common_folders(names))
        self.classes, self.labels = encode_labels(labels if any(labels) else folders)


class ZipSource(ArchiveSource):
    """A `.zip`, or one folder inside it. Labels come from folders."""

    def __init__(self, name: str, file: Path, inside: str = "", media: Media = PICTURES) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"'{file}' is damaged or no zip: {error}") from error
        prefix = f"{inside}/" if inside else ""
        found = [m for m in members if m.filename.startswith(prefix) and media.holds(m.filename)]
        found.sort(key=lambda m: m.filename)
        if not found:
            others = Others()
            for member in members:
                others.add(member.filename)
            raise no_samples(media, name, others)
        for member in found:
            if member.flag_bits & 1:
                raise UserError(f"'{file}' is encrypted; unpack it and give the folder")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f"'{file}' is compressed in a way that cannot be read ('{member.filename}'); "
                    "unpack it and give the folder"
                )
        names = [m.filename.removeprefix(prefix) for m in found]
        table = [
            (m.header_offset, m.compress_size, m.file_size, m.compress_type, m.CRC) for m in found
        ]
        super().__init__(name, [file], PackedNames(names), np.array(table, dtype=np.int64), media)
        self.classes, self.labels = folder_labels(_without_common_folders(names))

    def read(self, i: int) -> bytes:
        offset, packed, size, method, checksum = self._places[i].tolist()
        header = self._read_at(0, offset, LOCAL_HEADER)
        if header[:4] != b"PK\3\4":
            raise BrokenImage("the zip is damaged here")
        data = self._read_at(
            0, offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:])), packed
        )
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
            except zlib.error as error:
                raise BrokenImage("the zip is damaged here") from error
        if zlib.crc32(data) != checksum:
            raise BrokenImage("its checksum in the zip does not match")
        return data


def tar_members(file: Path) -> Iterator[tuple[str, int, int, str | None]]:
    """Name, offset, size of every regular file, and the text of a WebDataset class (`.cls`)."""
    try:
        with open(file, "rb") as raw:
            if raw.read(6).startswith(COMPRESSED_TAR):
                raise UserError(
                    f"'{file}' is a compressed tar, which cannot be read in random order; unpack "
                    "it to a plain .tar or to a folder"
                )
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                # Or the archive keeps every header it has seen: a gigabyte for a million members.
                archive.members = []  # type: ignore[attr-defined]
                if not member.isreg():
                    continue
                text = None
                if member.name.endswith(".cls") and (content := archive.extractfile(member)):
                    text = content.read().decode("utf-8").strip()
                yield member.name, member.offset_data, member.size, text
    except (tarfile.TarError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"'{file}' is damaged or no tar: {error}") from error


def _key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of the file name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def _without_common_folders(names: list[str]) -> list[str]:
    """Names without the folders that all of them lie in."""
    depth = len(posixpath.commonpath([posixpath.dirname(name) for name in names]))
    return [name[depth + 1 :] for name in names] if depth else names
