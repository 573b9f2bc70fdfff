"""One writer per folder: a lock that the kernel takes back from whoever dies.

POSIX locks reach over hosts on NFS and other shared file systems. Where they do not, the holder's
sign of life decides: it touches the lock's file every few seconds.
"""

import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from vistill.errors import UserError

LOCK = "vistill.lock"
"""Name of the file; it is there as long as somebody writes, and longer only after a kill."""

LOG = logging.getLogger("vistill")
_BEAT = 5.0
_PATIENCE = 4 * _BEAT
_HELD = (errno.EACCES, errno.EAGAIN)
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""A file system without locks."""


class Holder(NamedTuple):
    """Who writes into a folder.

    Attributes:
        host: name of the machine.
        pid: process there.
        since: when it began.
        command: what it was called with.
    """

    host: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        where = "on this machine" if self.host == socket.gethostname() else f"on {self.host}"
        return f"process {self.pid} {where} since {self.since} ({self.command})"

    @property
    def advice(self) -> str:
        """How to become the one who writes."""
        if self.host == socket.gethostname():
            return f"wait for it, or end it (kill {self.pid})"
        return "wait for it, or end it there"


class FolderLock:
    """The right to write into a folder, until `release` or the end of the process.

    Forked processes do not share it. Within a process it may be taken several times and is given
    back with the last of them.

    Attributes:
        folder: that is locked; to be changed by whoever renames it.
    """

    _own: dict[tuple[int, int], "FolderLock"] = {}  # noqa: RUF012, by device and inode

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder, self._handle, self._count = folder, handle, 1
        self._process = os.getpid()
        self._key = _identity(os.fstat(handle))
        self._own[self._key] = self
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def attempt(cls, folder: Path) -> Self | Holder:
        """The lock of an existing folder, or who has it.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = folder / LOCK
        while True:
            with suppress(FileNotFoundError):
                # To open it once more and close it would give the lock away.
                own = cls._own.get(_identity(path.stat()))
                if own is not None and own._process == os.getpid():
                    own._count += 1
                    return own  # type: ignore[return-value]
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                found = _claim(path, handle)
            except BaseException:
                os.close(handle)
                raise
            if found is None:
                return cls(folder, handle)
            os.close(handle)
            if isinstance(found, Holder):
                return found

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """The lock of an existing folder.

        Raises:
            UserError: another process has it.
            OSError: the folder cannot be written to.
        """
        got = cls.attempt(folder)
        if isinstance(got, Holder):
            raise UserError(
                f"{folder} is being written by {got}; {got.advice}, or choose another folder. If "
                f"that process is gone for good, delete {folder / LOCK}"
            )
        return got

    def release(self) -> None:
        """Let others write."""
        self._count -= 1
        if self._count:
            return
        self._ended.set()
        del self._own[self._key]
        path = self.folder / LOCK
        with suppress(OSError):
            if _identity(path.stat()) == self._key:
                path.unlink()
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            with suppress(OSError):
                os.utime(self._handle)


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Make `folder` if it is missing, and be the one who writes there; None locks nothing.

    Raises:
        UserError: another process writes there, or nobody can.
    """
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock.acquire(folder)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with lock:
        yield


def _claim(path: Path, handle: int) -> Holder | bool | None:
    """Take the open file: None where it is ours now, its holder, or True: try again."""
    reliable = True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return _read(handle) or Holder("another machine", 0, "now", "vistill")
        if error.errno not in _UNKNOWN:
            raise
        reliable = False
    before = _read(handle)
    if before is not None and not (reliable and before.host == socket.gethostname()):
        LOG.warning(
            "%s was being written by %s; looking for a sign of life for %d seconds",
            path.parent,
            before,
            _PATIENCE,
        )
        if _lives(path):
            return before
    try:
        there = _identity(path.stat())
    except FileNotFoundError:
        return True
    if there != _identity(os.fstat(handle)):
        return True  # whoever had it deleted it as we opened it
    _write(handle)
    return None


def _lives(path: Path) -> bool:
    """Whether somebody touches the file."""
    until, times = time.monotonic() + _PATIENCE, set()
    while time.monotonic() < until:
        try:
            # Opening it again makes NFS ask the server.
            with path.open("rb") as file:
                times.add(os.fstat(file.fileno()).st_mtime_ns)
        except OSError:
            return False
        if len(times) > 1:
            return True
        time.sleep(_BEAT / 5)
    return False


def _read(handle: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(handle, 1 << 16, 0)))
    except (ValueError, TypeError):
        return None


def _write(handle: int) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    holder = Holder(socket.gethostname(), os.getpid(), since, command)
    text = json.dumps(holder._asdict()).encode() + b"\n"
    os.ftruncate(handle, 0)
    os.pwrite(handle, text, 0)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
