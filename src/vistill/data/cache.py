"""What a frozen teacher said about fixed views of the pictures, kept on disk and read back.

One record per (view, picture) at a fixed place of a memory-mapped file, and one byte per record
that is set once the record is on the disk: a writer may be killed at any moment, and any number of
runs may read meanwhile.
"""

import errno
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from vistill.batch import Features
from vistill.data.records import Record
from vistill.errors import UserError
from vistill.files import PARTIAL, write_atomic
from vistill.locking import LOCK, FolderLock
from vistill.random import copy_seed, sample_seeds

LOG = logging.getLogger("vistill.data")
FORMAT = 2
INDEX = "cache.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMIT_SECONDS = 2.0
Views = int | Int[np.ndarray, " b"]
"""Number of the view of each sample, or of all."""


class _Leaving(NamedTuple):
    """Records on their way to the host: from a GPU by a stream of their own, as a copy on that of
    the step would wait for all that the step has begun meanwhile."""

    raw: UInt8[Tensor, "b nbytes"]
    sent: torch.cuda.Event | None

    @classmethod
    def of(cls, raw: UInt8[Tensor, "b nbytes"]) -> "_Leaving":
        """Send them off, once what was begun so far is done."""
        if raw.device.type != "cuda":
            return cls(raw, None)
        stream = _stream(raw.device)
        stream.wait_stream(torch.cuda.current_stream(raw.device))
        with torch.cuda.stream(stream):
            host = torch.empty(raw.shape, dtype=raw.dtype, pin_memory=True)
            host.copy_(raw, non_blocking=True)
            sent = torch.cuda.Event()
            sent.record(stream)
        raw.record_stream(stream)
        return cls(host, sent)

    def arrived(self) -> UInt8[Tensor, "b nbytes"]:
        """The records, on the host."""
        if self.sent is not None:
            self.sent.synchronize()
        return self.raw


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class TeacherCache:
    """Records of `views` random views and one test view of every picture of a source.

    Args:
        folder: where they are.
        layout: of a record.
        views: random views per picture; the test view has the number `views`.
        pictures: of the source, trained on or not.
        repeats: views that an epoch shows of a sample that is decoded once; divides `views`.

    Attributes:
        writes: whether this run is the one that writes.
        read_pictures, computed_pictures: how often this process read a record, or ran the teacher.
    """

    def __init__(
        self, folder: Path, layout: Record, views: int, pictures: int, repeats: int = 1
    ) -> None:
        self.folder, self.layout, self.views, self.pictures = folder, layout, views, pictures
        self.repeats = repeats
        self.writes = False
        self.read_pictures = self.computed_pictures = 0
        self._let_go()

    def _let_go(self) -> None:
        self._lock: FolderLock | None = None
        self._records: dict[int, np.ndarray] = {}
        self._written: dict[int, np.ndarray] = {}
        self._files: dict[int, int] = {}
        self._pending: list[tuple[np.ndarray, np.ndarray, _Leaving]] = []
        self._fresh: dict[int, set[int]] = {}
        self._committed_at = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # A loader process opens the files for itself, and only reads.
        kept = ("folder", "layout", "views", "pictures", "repeats")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def test_view(self) -> int:
        """Number of the view without randomness."""
        return self.views

    @property
    def bytes_per_picture(self) -> int:
        """Disk space of all random views of a picture."""
        return self.views * self.layout.nbytes

    def leader(self, view: int) -> int:
        """The first of the views that share what is decoded of a sample."""
        return view - view % self.repeats

    def seeds(self, view: int, ids: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """What the view of each picture derives from: the same in every run."""
        seeds = sample_seeds(0, self.leader(view), ids)
        copy = view % self.repeats
        return np.array([copy_seed(seed, copy) for seed in seeds.tolist()]) if copy else seeds

    # ---- files

    def _path(self, kind: str, view: int) -> Path:
        name = "test" if view == self.test_view else str(view)
        return self.folder / f"{kind}-{name}.bin"

    def open_to_write(self, index: dict[str, Any]) -> bool:
        """Become the one run that writes, and make the files where there are none yet.

        Returns:
            False where another run writes; this one only reads.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim()
            if self.writes and not (self.folder / INDEX).is_file():
                for view in range(self.views + 1):
                    for kind, size in self._sizes():
                        with self._path(kind, view).open("wb") as file:
                            file.truncate(size)
                # Last: with an index it is a cache.
                write_atomic(self.folder / INDEX, json.dumps(index, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write to the cache {self.folder}: {error.strerror or error}"
            ) from error
        waited = 0.0
        while not (self.folder / INDEX).is_file() and waited < _COMMIT_SECONDS:
            time.sleep(0.1)  # the run that writes is making them
            waited += 0.1
        self.check_files()
        return self.writes

    def _sizes(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("records", self.layout.nbytes * self.pictures), ("written", self.pictures)

    def check_files(self) -> None:
        """Raise a UserError if a file is missing or has another size than it was made with."""
        for view in range(self.views + 1):
            for kind, size in self._sizes():
                path = self._path(kind, view)
                found = path.stat().st_size if path.is_file() else 0
                if found != size:
                    raise UserError(
                        f"the cache {self.folder} is damaged: {path.name} has {found} bytes "
                        f"instead of {size}; delete the folder, or choose another"
                    )

    def _claim(self) -> None:
        try:
            lock = FolderLock.attempt(self.folder)
        except OSError:
            if not (self.folder / INDEX).is_file():
                raise
            return  # somebody else's, to be read
        if isinstance(lock, FolderLock):
            self._lock, self.writes = lock, True

    def written(self, view: int) -> UInt8[np.ndarray, " n"]:
        """One byte per picture: whether the record of `view` is on the disk, by any run."""
        if view not in self._written:
            path = self._path("written", view)
            mode: Literal["r+", "r"] = "r+" if os.access(path, os.W_OK) else "r"
            self._written[view] = np.memmap(path, np.uint8, mode)
        return self._written[view]

    def forget(self, ids: Int[np.ndarray, " k"]) -> None:
        """Take the records of these pictures for not written, in all views."""
        for view in range(self.views + 1):
            self.written(view)[ids] = 0

    # ---- records

    def read(self, views: Views, ids: Int[np.ndarray, " b"]) -> "Found":
        """The records of these pictures, as far as there are any."""
        numbers = np.unique(views).tolist()
        if len(numbers) == 1:
            return self._read(numbers[0], ids)
        raw = torch.empty(len(ids), self.layout.nbytes, dtype=torch.uint8)
        known = np.zeros(len(ids), bool)
        for view in numbers:
            rows = np.flatnonzero(views == view)
            raw[rows], known[rows] = self._read(view, ids[rows])
        return Found(raw, known)

    def _read(self, view: int, ids: Int[np.ndarray, " b"]) -> "Found":
        known = self.written(view)[ids] > 0
        fresh = self._fresh.get(view)
        if fresh:
            known |= np.fromiter((i in fresh for i in ids.tolist()), bool, len(ids))
        if view not in self._records:
            shape = (self.pictures, self.layout.nbytes)
            self._records[view] = np.memmap(self._path("records", view), np.uint8, "r", shape=shape)
        return Found(torch.from_numpy(self._records[view][ids]), known)

    def store(
        self, views: Views, ids: Int[np.ndarray, " b"], raw: UInt8[Tensor, "b nbytes"]
    ) -> None:
        """Write records, one call later: by then the device has computed them."""
        if not self.writes:
            return
        self._pending.append((np.broadcast_to(views, ids.shape), ids, _Leaving.of(raw)))
        try:
            if len(self._pending) > 1:
                self._write(*self._pending.pop(0))
            if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
                self._commit()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Bring everything to the disk and let go of the files."""
        try:
            while self._pending:
                self._write(*self._pending.pop(0))
            self._commit()
        except OSError as error:
            self._give_up(error)
        for handle in self._files.values():
            os.close(handle)
        if self._lock is not None:
            self._lock.release()
        self.writes = False
        self._let_go()

    def _write(self, views: np.ndarray, ids: np.ndarray, leaving: "_Leaving") -> None:
        records = leaving.arrived().numpy()
        for view, i, record in zip(views.tolist(), ids.tolist(), records, strict=True):
            if view not in self._files:
                self._files[view] = os.open(self._path("records", view), os.O_WRONLY)
            fresh = self._fresh.setdefault(view, set())
            if self.written(view)[i] or i in fresh:
                continue
            done = os.pwrite(self._files[view], record.tobytes(), i * self.layout.nbytes)
            if done < self.layout.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fresh.add(i)

    def _commit(self) -> None:
        """Set the marks of the new records, once these are on the disk."""
        for view, fresh in self._fresh.items():
            if fresh:
                os.fdatasync(self._files[view])
                self.written(view)[list(fresh)] = 1
                fresh.clear()
        self._committed_at = time.monotonic()

    def _give_up(self, error: OSError) -> None:
        if error.errno not in _FULL:
            raise error
        self.writes = False
        self._pending.clear()
        LOG.warning(
            "the cache %s grows no further (%s): what it holds is read, and the teacher runs for "
            "the rest",
            self.folder,
            error.strerror,
        )

    def for_batch(
        self, views: Views, ids: Int[Tensor, " b"], seeds: Int[Tensor, " b"], found: "Found"
    ) -> "CachedView":
        """What a batch carries; records that came meanwhile are looked up again."""
        pictures = ids.numpy()
        if not found.known.all():
            found = self.read(views, pictures)
        return CachedView(self, np.broadcast_to(views, pictures.shape), pictures, seeds, *found)


class Found(NamedTuple):
    """Records, and which of them are there; the others hold anything."""

    raw: UInt8[Tensor, "b nbytes"]
    known: Bool[np.ndarray, " b"]


@dataclass(frozen=True)
class PartCache:
    """The cache of a source that is part of a mixture, by positions in the mixture.

    Attributes:
        own: by the source's own positions.
        first: position of its first sample in the mixture.
    """

    own: TeacherCache
    first: int

    def leader(self, view: int) -> int:
        """See `TeacherCache.leader`."""
        return self.own.leader(view)

    def seeds(self, view: int, ids: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """See `TeacherCache.seeds`."""
        return self.own.seeds(view, ids - self.first)

    def read(self, views: Views, ids: Int[np.ndarray, " b"]) -> "Found":
        """See `TeacherCache.read`."""
        return self.own.read(views, ids - self.first)

    def for_batch(
        self, views: Views, ids: Int[Tensor, " b"], seeds: Int[Tensor, " b"], found: "Found"
    ) -> "CachedView":
        """See `TeacherCache.for_batch`."""
        return self.own.for_batch(views, ids - self.first, seeds, found)


@dataclass(frozen=True)
class CachedView:
    """The records of one batch (see `vistill.batch.CachedFeatures`)."""

    cache: TeacherCache
    views: Int[np.ndarray, " b"]
    ids: Int[np.ndarray, " b"]
    seeds: Int[Tensor, " b"]
    raw: UInt8[Tensor, "b nbytes"]
    known: Bool[np.ndarray, " b"]
    stores: bool = True

    def features(self, compute: Callable[[Int[Tensor, " k"] | None], Features]) -> Features:
        """What is cached, or what `compute` finds, rounded as it will be read again."""
        cache, raw, missing = self.cache, self.raw, ~self.known
        cache.read_pictures += int(self.known.sum())
        cache.computed_pictures += int(missing.sum())
        if missing.all():
            raw = fresh = cache.layout.encode(compute(None))
        elif missing.any():
            rows = torch.from_numpy(np.flatnonzero(missing)).to(raw.device)
            fresh = cache.layout.encode(compute(rows))
            raw = raw.index_copy(0, rows, fresh)
        if missing.any() and self.stores:
            cache.store(self.views[missing], self.ids[missing], fresh)
        return cache.layout.decode(raw)

    def to(self, device: torch.device | str) -> "CachedView":
        """Move every tensor, without waiting for the copy."""
        raw = self.raw
        if torch.device(device).type == "cuda":
            raw = raw.pin_memory()  # a copy from pageable memory would make the host wait
        return replace(
            self,
            seeds=self.seeds.to(device, non_blocking=True),
            raw=raw.to(device, non_blocking=True),
        )

    def take(self, rows: Int[Tensor, " k"]) -> "CachedView":
        """Some samples, to try something out: what is found is not stored."""
        places = rows.cpu().numpy()
        return replace(
            self,
            views=self.views[places],
            ids=self.ids[places],
            seeds=self.seeds[rows],
            raw=self.raw[rows],
            known=self.known[places],
            stores=False,
        )


def read_index(folder: Path) -> dict[str, Any] | None:
    """What the cache in `folder` was made for; None where there is none yet.

    Raises:
        UserError: the folder holds something else, or an index that cannot be read.
    """
    path = folder / INDEX
    if path.is_file():
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise UserError(
                    f"the cache {folder} was written by another version of vistill (format "
                    f"{index['format']!r}, not {FORMAT}); choose another folder"
                )
            return dict(index)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete the folder") from error
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the cache {folder} is a file; name a folder")
    # A start that was killed leaves empty files of our own names.
    ours = ("records-", "written-", PARTIAL, LOCK)
    inside = [path.name for path in folder.iterdir()] if folder.exists() else []
    strangers = [name for name in inside if not name.startswith(ours)]
    if strangers:
        raise UserError(
            f"the folder {folder} is not empty and no cache of a teacher (it holds "
            f"{strangers[0]}); choose another one"
        )
    return None
