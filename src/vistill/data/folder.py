"""A folder of pictures or clips, nested as deep as it likes."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vistill.data.broken import BrokenImage, unreadable
from vistill.data.passed_over import PassedOver
from vistill.data.source import PICTURES, Media, NamedSource, PackedNames
from vistill.errors import UserError

ODD = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
LOOP = "circular link"


class FolderSource(NamedSource):
    """Every picture (or clip) below a folder, sorted folder by folder.

    Labelled by first-level subfolder when all of them lie directly in at least two such.

    Args:
        root: the folder.
        media: what is looked for.
        passed: gets whatever else lies there.
    """

    def __init__(
        self, root: Path, media: Media = PICTURES, passed: PassedOver | None = None
    ) -> None:
        self._root = os.path.abspath(root)
        passed = passed or PassedOver(media)
        super().__init__(str(root), PackedNames(self._walk("", (), media, passed)), media)
        if not len(self):
            raise passed.error(str(root))
        self.notes = passed.notes()
        self.label_by_folders(self.names)

    def read(self, i: int) -> bytes:
        return read_file(self.place(i))

    def place(self, i: int) -> str:
        return os.path.join(self._root, self.names[i])

    def _walk(
        self, folder: str, above: tuple[str, ...], media: Media, passed: PassedOver
    ) -> Iterator[str]:
        here = os.path.join(self._root, folder)
        real = os.path.realpath(here)
        if real in above:
            passed.add_odd(folder, LOOP)
            return
        try:
            with os.scandir(here) as scan:
                entries = sorted((e.name, _kind(e)) for e in scan if not e.name.startswith("."))
        except OSError as error:
            raise UserError(f"folder '{here}' cannot be read: {error.strerror}") from error
        for name, kind in entries:
            path = f"{folder}/{name}" if folder else name
            if kind == "folder":
                yield from self._walk(path, (*above, real), media, passed)
            elif kind:
                passed.add_odd(path, kind)
            elif media.holds(name):
                yield path
            else:
                passed.add(path)


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, what a thing that is no file is called, or nothing for a file.

    A link that leads nowhere counts as a file, which will be a broken one.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return ""
        return ODD.get(stat.S_IFMT(entry.stat().st_mode), "")
    except OSError as error:
        return LOOP if error.errno == errno.ELOOP else ""


def read_file(path: str) -> bytes:
    """The bytes of a regular file; BrokenImage where it is none or cannot be read."""
    with open_file(path) as file:
        return file.read()


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A regular file, opened to read.

    Raises:
        BrokenImage: it is none, or cannot be read.
        Failure: nothing can be read on this machine, see `unreadable`.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BrokenImage("is no regular file")
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def _without_waiting(path: str, flags: int) -> int:
    """Open, also a named pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)
