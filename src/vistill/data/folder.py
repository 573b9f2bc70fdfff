"""A folder of pictures or clips, nested as deep as it likes."""

import errno
import os
import stat
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vistill.data.broken import BrokenImage, unreadable
from vistill.data.names import NamePacker
from vistill.data.passed_over import PassedOver
from vistill.data.source import PICTURES, Media, NamedSource
from vistill.errors import UserError

ODD = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
LOOP = "circular link"
_USUAL = 4
"""Letters of most endings, which are looked up as they are."""


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
        walk = _Walk(self._root, media, passed)
        super().__init__(str(root), walk.names.names(), media)
        if not len(self):
            raise passed.error(str(root))
        self.watched = walk.folders
        self.notes = passed.notes()
        self.label_by_folders()

    def read(self, i: int) -> bytes:
        return read_file(self.place(i))

    def place(self, i: int) -> str:
        return os.path.join(self._root, self.names[i])


class _Walk:
    """All files below a folder.

    Attributes:
        names: of the samples.
        folders: that were looked into; None where a change below a link would not show in them.
    """

    def __init__(self, root: str, media: Media, passed: PassedOver) -> None:
        self.names = NamePacker()
        self.folders: list[str] | None = []
        self._root, self._media, self._passed = root, media, passed
        usual = (ending for ending in media.suffixes if len(ending) == _USUAL)
        self._usual = {shown for ending in usual for shown in (ending, ending.upper())}
        self._look("", os.path.realpath(root), ())

    def _look(self, folder: str, real: str, above: tuple[str, ...]) -> None:
        here = os.path.join(self._root, folder)
        if real in above:
            self._passed.add_odd(folder, LOOP)
            return
        if self.folders is not None:
            self.folders.append(here)
        files, others = list[str](), dict[str, str]()
        try:
            with os.scandir(here) as scan:
                for entry in scan:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if entry.is_file(follow_symlinks=False):
                        files.append(name)
                        continue
                    kind = others[name] = _kind(entry)
                    if kind != "folder" or entry.is_symlink():
                        self.folders = None
        except OSError as error:
            raise UserError(f"folder '{here}' cannot be read: {error.strerror}") from error
        files.sort()
        front = f"{folder}/" if folder else ""
        start = 0
        for name in sorted(others):
            place = bisect(files, name, start)
            self._take(files[start:place], front)
            start, path, kind = place, front + name, others[name]
            if kind == "folder":
                inside = os.path.join(real, name)
                if self.folders is None:
                    inside = os.path.realpath(inside)
                self._look(path, inside, (*above, real))
            elif kind:
                self._passed.add_odd(path, kind)
            else:
                self._take([name], front)
        self._take(files[start:], front)

    def _take(self, files: list[str], front: str) -> None:
        """Sort samples from what is passed over."""
        usual, holds = self._usual, self._media.holds
        good = [name for name in files if name[-_USUAL:] in usual or holds(name)]
        self.names.add_all(good, front)
        if len(good) < len(files):
            for name in files:
                if not holds(name):
                    self._passed.add(front + name)


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
