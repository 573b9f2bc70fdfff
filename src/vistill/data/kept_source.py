"""What a large source was found to hold, kept for later starts and for the ranks of one machine.

The file is mapped, not read: every process that opens the same source shares its pages. It serves
as long as none of the files and folders that were read has changed since; otherwise the source is
opened anew and the file replaced.
"""

import json
import logging
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from vistill.data.archive import ArchiveSource, TarSource
from vistill.data.captions import Captions
from vistill.data.folder import FolderSource
from vistill.data.listing import ListSource
from vistill.data.names import PackedNames
from vistill.data.source import Decoding, Media, NamedSource, Unlabelled
from vistill.data.zips import ZipSource
from vistill.files import PARTIAL, atomic_writer

LOG = logging.getLogger("vistill.data")
PLACE = "VISTILL_INDEX"
"""Environment variable: the folder of the indices, or `off`."""
OFF = ("off", "0", "no", "")
LEAST = 20_000
"""Samples from which on an index is worth a file."""
_FORMAT = 1
_MAGIC = b"vistill source\n\0"
_HEAD = struct.Struct("<16sQI")
"""Mark, length of the description and its checksum."""
_ALIGNED = 64
_CLASSES = {one.__name__: one for one in (FolderSource, ListSource, TarSource, ZipSource)}
_OWN = frozenset({"media", "decoding", "proofs", "watched", "_handles", "_pid"})
"""Attributes that are made anew."""
_SETTLED_NS = 2_000_000_000
"""A change this short before the reading may have the same time as what was read."""
_DAYS = 86400
_FORGOTTEN, _ABANDONED = 90 * _DAYS, _DAYS
_SILENT = ("fuse", "9p", "drvfs", "vboxsf", "prl_fs")
"""File systems on which a folder's times need not tell of its changes, such as object stores."""


def keep(
    told: Sequence[str], media: Media, files: Sequence[Path] | None, make: Callable[[], NamedSource]
) -> NamedSource:
    """The source that `make` opens, from its index where there is one that still holds.

    Args:
        told: all that decides what it holds, besides the content of files: kind, path, root.
        media: what its samples are.
        files: that it is read from; None: the folders that it names itself (`watched`).
        make: opens it.

    Raises:
        UserError: of `make`; never for the sake of the index.
    """
    folder = _folder()
    if folder is None:
        return make()
    key = json.dumps([_FORMAT, sys.getfilesystemencoding(), media.noun, sorted(media.suffixes),
                      *told, *(os.path.abspath(file) for file in files or ())])  # fmt: skip
    path = folder / f"{sha256(key.encode()).hexdigest()[:32]}.index"
    found = _load(path, key, media) or _opened(path, key, media, files, make)
    if isinstance(found, ListSource):
        found.require_first()
    return found


def _opened(
    path: Path,
    key: str,
    media: Media,
    files: Sequence[Path] | None,
    make: Callable[[], NamedSource],
) -> NamedSource:
    """The source opened anew, from the index that is written of it where it is worth one."""
    begun = time.time_ns()
    source = make()
    watched = source.watched if files is None else [os.path.abspath(file) for file in files]
    source.watched = None
    if type(source).__name__ not in _CLASSES or len(source) < LEAST or watched is None:
        return source
    with suppress(OSError):
        # Another rank was faster: all share what it wrote.
        if path.stat().st_mtime_ns > begun and (found := _load(path, key, media)):
            return found
    if not _save(path, key, source, begun, watched, by_folders=files is None):
        return source
    del source  # so that there is never more than one of them in memory
    return _load(path, key, media, sure=True) or make()


def _folder() -> Path | None:
    """Where indices are kept."""
    told = os.environ.get(PLACE)
    if told is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return Path(base, "vistill", "sources") if os.path.isabs(base) else None
    return None if told.lower() in OFF else Path(told).expanduser()


def _marks(paths: Sequence[str]) -> np.ndarray:
    """Of every file or folder what changes when its content or its place does; int64 `[n, 4]`."""
    found = np.zeros((len(paths), 4), np.int64)
    for row, path in zip(found, paths, strict=True):
        told = os.stat(path)
        row[:] = told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns
    return found


def _save(
    path: Path, key: str, source: NamedSource, begun: int, watched: Sequence[str], by_folders: bool
) -> bool:
    """Write the index of a source, if it can be kept, and say whether it is."""
    arrays: list[np.ndarray] = []
    try:
        if by_folders and _silent(watched):
            return False
        fields = {
            name: _put(value, arrays) for name, value in vars(source).items() if name not in _OWN
        }
        told = {
            "key": key,
            "begun": begun,
            "class": type(source).__name__,
            "fields": fields,
            "watched": _put(PackedNames(watched), arrays),
            "marks": _put(_marks(watched), arrays),
        }
        at, places = 0, []
        for array in arrays:
            places.append([array.dtype.str, list(array.shape), at, zlib.crc32(array.data)])
            at += -(-array.nbytes // _ALIGNED) * _ALIGNED
        head = json.dumps({**told, "arrays": places}).encode()
        head += b" " * (-(_HEAD.size + len(head)) % _ALIGNED)
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        with atomic_writer(path) as file:
            file.write(_HEAD.pack(_MAGIC, len(head), zlib.crc32(head)) + head)
            for array in arrays:
                file.write(array.data.cast("B") if array.size else b"")
                file.write(bytes(-array.nbytes % _ALIGNED))
        return True
    except OSError as error:
        LOG.info("no index of %s is kept: %s", source.name, error)
    except TypeError as error:  # an attribute that is no plain data
        LOG.info("%s cannot be kept: %s", source.name, error)
    return False


def _put(value: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    """A value as plain data, and arrays that are added to `arrays`."""
    match value:
        case PackedNames() | Captions():
            return {type(value).__name__: [_put(array, arrays) for array in value.arrays]}
        case np.ndarray():
            arrays.append(np.ascontiguousarray(value))
            return {"array": len(arrays) - 1}
        case Unlabelled():
            return {"unlabelled": list(value)}
    return {"value": value}


def _load(path: Path, key: str, media: Media, sure: bool = False) -> NamedSource | None:
    """The source whose index lies there; None where there is none that is whole and, unless that is
    `sure`, still holds."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        mark, length, checksum = _HEAD.unpack_from(mapped)
        head = mapped[_HEAD.size : _HEAD.size + length]
        if mark != _MAGIC or zlib.crc32(head) != checksum:
            raise ValueError("it is damaged")
        told = json.loads(head)
        if told["key"] != key:
            raise ValueError("it is of another source")
        arrays = []
        for kind, shape, at, checksum in told["arrays"]:
            size, start = int(np.prod(shape)), _HEAD.size + length + at
            array = (
                np.frombuffer(mapped, np.dtype(kind), size, start) if size else np.zeros(0, kind)
            )
            if not sure and zlib.crc32(array.data) != checksum:
                raise ValueError("it is damaged")
            arrays.append(array.reshape(shape))
        if not sure and not _holds(told, arrays):
            return None
        source = _CLASSES[told["class"]].__new__(_CLASSES[told["class"]])
        fields = {name: _got(value, arrays) for name, value in told["fields"].items()}
    except (OSError, ValueError, TypeError, LookupError, struct.error) as error:
        if not isinstance(error, FileNotFoundError):
            LOG.info("the index %s is not used: %s", path, error)
        return None
    vars(source).update(fields, media=media, decoding=Decoding(), proofs=None, watched=None)
    if isinstance(source, ArchiveSource):
        source.let_go()
    with suppress(OSError):  # it is in use: do not tidy it away
        if time.time() - path.stat().st_mtime > _DAYS:
            os.utime(path)
    return source


def _holds(told: dict[str, Any], arrays: Sequence[np.ndarray]) -> bool:
    """Whether nothing that was read has changed since."""
    watched, marks = _got(told["watched"], arrays), _got(told["marks"], arrays)
    settled = marks[:, 2:] <= told["begun"] - _SETTLED_NS
    return bool(settled.all() and (_marks(list(watched)) == marks).all())


def _got(value: dict[str, Any], arrays: Sequence[np.ndarray]) -> Any:
    ((kind, told),) = value.items()
    if kind == "array":
        return arrays[told]
    if kind == "unlabelled":
        return Unlabelled(*told)
    if kind == "value":
        return told
    packed = {one.__name__: one for one in (PackedNames, Captions)}[kind]
    return packed.of(*(_got(one, arrays) for one in told))


def _silent(folders: Sequence[str]) -> bool:
    """Whether one of the folders lies where its times need not tell of changes."""
    kinds = {}
    with suppress(FileNotFoundError), open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            mount, _, system = line.partition(" - ")
            kinds[mount.split()[2]] = system.split()[0]
    devices = {os.stat(folder).st_dev for folder in folders}
    told = {kinds.get(f"{os.major(one)}:{os.minor(one)}", "") for one in devices}
    return any(kind.startswith(_SILENT) for kind in told)


def _tidy(folder: Path) -> None:
    """Delete indices that nobody has used for long, and what killed writers left."""
    now = time.time()
    for pattern, age in (("*.index", _FORGOTTEN), (f"{PARTIAL}*", _ABANDONED)):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if now - path.stat().st_mtime > age:
                    path.unlink()
