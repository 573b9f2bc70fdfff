"""Pictures and clips inside `.tar` shards, in WebDataset's naming or in folders.

An archive is indexed once; afterwards every picture is one seek and one read, in any order.
"""

import os
from array import array
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from vistill.data.broken import BrokenImage, unreadable
from vistill.data.names import SLASH, NamePacker, PackedNames, common_folders, cut_out, have_ending
from vistill.data.passed_over import PassedOver
from vistill.data.shard_labels import ShardLabels, ShardMembers
from vistill.data.source import PICTURES, Media, NamedSource, encode_labels, hidden
from vistill.data.stamps import Stamps, file_stamps
from vistill.data.tar_members import Members, tar_blocks

OPEN_FILES = 64


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
        self.let_go()

    def let_go(self) -> None:
        """Start without open files."""
        self._handles: dict[int, BinaryIO] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    @staticmethod
    def front(files: list[Path], number: int) -> str:
        """What stands before the names of members of an archive: where there are several, its
        own."""
        return f"{files[number].name}/" if len(files) > 1 else ""

    def label_by_own_folders(self, files: list[Path]) -> None:
        """Labels from folders inside the archives, without those that all samples lie in."""
        fronts = [len(os.fsencode(self.front(files, number))) for number in range(len(files))]
        skip: int | np.ndarray = fronts[0]
        if len(set(fronts)) > 1:
            skip = np.array(fronts)[self._places[:, 0]]
        self.label_by_folders(skip + common_folders(self.names, skip))

    def _stamped(self, content: np.ndarray) -> Stamps:
        """Stamps from a number per sample; the time of change is that of the archive."""
        times = file_stamps(self._files)[:, 1]
        return np.stack([content, times[self._places[:, 0]]], axis=1)

    def _read_at(self, file: int, offset: int, size: int) -> bytes:
        if self._pid != os.getpid():
            self.let_go()
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
        names = NamePacker()
        places = array("q")
        passed, labels = PassedOver(media), ShardLabels()
        for number, file in enumerate(files):
            samples, others = NamePacker(), ShardMembers(file)
            for members in tar_blocks(file, passed):
                kept = _samples(members, media, samples, others, passed)
                table = np.empty((len(kept), 3), np.int64)
                table[:, 0], table[:, 1], table[:, 2] = (
                    number, members.offsets[kept], members.sizes[kept]
                )  # fmt: skip
                places.frombytes(table.tobytes())
            text, ends = samples.arrays
            names.add_block(text, ends[1:], os.fsencode(self.front(files, number)))
            labels.add(others, samples.names())
        if not len(names):
            raise passed.error(name)
        table = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)
        super().__init__(name, files, names.names(), table, media)
        told = labels.chosen(passed)
        if told is None:
            self.label_by_own_folders(files)
        else:
            self.classes, self.labels = encode_labels(told)
        self.notes = [*labels.notes, *passed.notes()]


def _samples(
    members: Members,
    media: Media,
    samples: NamePacker,
    others: ShardMembers,
    passed: PassedOver,
) -> Int[np.ndarray, " k"]:
    """Which members are samples; their names go to `samples`, what may be labels to `others`, and
    what is neither to `passed`."""
    text, ends = members.text, members.ends
    starts = np.concatenate([[0], ends[:-1]])
    kept = have_ending(text, starts, ends, media.suffixes)
    kept[kept] = text[starts[kept]] != SLASH
    named = dict[int, str]()
    for i in np.flatnonzero(~kept).tolist():
        path = os.fsdecode(text[starts[i] : ends[i]].tobytes()).removeprefix("./").lstrip("/")
        if media.holds(path):
            kept[i], named[i] = True, path
        elif not hidden(path) and not others.take(
            path, int(members.offsets[i]), int(members.sizes[i])
        ):
            passed.add(path)
    rows = np.flatnonzero(kept)
    if not named:
        samples.add_block(*cut_out(text, starts[rows], ends[rows]))
    else:
        for i in rows.tolist():
            samples.add(named.get(i) or os.fsdecode(text[starts[i] : ends[i]].tobytes()))
    return rows
