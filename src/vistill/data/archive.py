"""Pictures and clips inside `.tar` shards, in WebDataset's naming or in folders.

An archive is indexed once; afterwards every picture is one seek and one read, in any order.
"""

import os
import posixpath
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vistill.data.broken import BrokenImage, unreadable
from vistill.data.passed_over import PassedOver
from vistill.data.shard_labels import ShardLabels, ShardMembers
from vistill.data.source import PICTURES, Media, NamedSource, PackedNames, encode_labels, hidden
from vistill.data.stamps import Stamps, file_stamps
from vistill.errors import UserError

OPEN_FILES = 64
COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
ODD = "member that is no file"


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

    @staticmethod
    def shown(files: list[Path], names: list[str], places: np.ndarray) -> list[str]:
        """Names of samples as people look for them: of several archives with the archive's."""
        if len(files) == 1:
            return names
        return [f"{files[n].name}/{x}" for n, x in zip(places[:, 0], names, strict=True)]

    def _stamped(self, content: np.ndarray) -> Stamps:
        """Stamps from a number per sample; the time of change is that of the archive."""
        times = file_stamps(self._files)[:, 1]
        return np.stack([content, times[self._places[:, 0]]], axis=1)

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
            raise unreadable(str(self._files[file]), error) from error
        if len(data) != size:
            raise BrokenImage("the archive ends before it")
        return data


class ShardSource(ArchiveSource):
    """Members stored as they are; their places are rows of (file, offset, size)."""

    def read(self, i: int) -> bytes:
        file, offset, size = self._places[i].tolist()
        return self._read_at(file, offset, size)

    def member(self, i: int) -> tuple[str, str, int]:
        """Name of sample `i` in its shard, path of the shard, and offset in bytes."""
        file, offset, _ = self._places[i].tolist()
        shard = self._files[file]
        return self.names[i].removeprefix(f"{os.path.basename(shard)}/"), shard, offset

    def stamps(self) -> Stamps:
        return self._stamped(self._places[:, 2])


class TarSource(ShardSource):
    """Plain `.tar` shards. Labels come from members beside the samples, see
    `vistill.data.shard_labels`, else from folders."""

    def __init__(self, name: str, files: list[Path], media: Media = PICTURES) -> None:
        names: list[str] = []
        places = array("q")
        passed, labels = PassedOver(media), ShardLabels()
        for number, file in enumerate(files):
            start = len(names)
            members = ShardMembers(file)
            for member, offset, size in tar_members(file, passed):
                path = member.removeprefix("./").lstrip("/")
                if hidden(path):
                    continue
                if media.holds(path):
                    names.append(path)
                    places.extend((number, offset, size))
                elif not members.take(path, offset, size):
                    passed.add(path)
            labels.add(members, names[start:])
        if not names:
            raise passed.error(name)
        table = np.array(places, dtype=np.int64).reshape(-1, 3)
        super().__init__(name, files, PackedNames(self.shown(files, names, table)), table, media)
        found = labels.chosen(passed)
        if found is None:
            self.label_by_folders(without_common_folders(names))
        else:
            self.classes, self.labels = encode_labels(found)
        self.notes = [*labels.notes, *passed.notes()]


def tar_members(file: Path, passed: PassedOver | None = None) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every regular file; `passed` gets links and the like."""
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
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                elif passed is not None and not member.isdir():
                    passed.add_odd(member.name, "link" if member.islnk() or member.issym() else ODD)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"'{file}' is damaged or no tar: {error}") from error


def without_common_folders(names: list[str]) -> list[str]:
    """Names without the folders that all of them lie in."""
    depth = len(posixpath.commonpath([posixpath.dirname(name) for name in names]))
    return [name[depth + 1 :] for name in names] if depth else names
