"""A folder of pictures, nested as deep as it likes."""

import os
from collections.abc import Iterator
from pathlib import Path

from vistill.data.broken import BrokenImage
from vistill.data.source import NamedSource, PackedNames, folder_labels, is_picture, no_pictures
from vistill.errors import UserError


class FolderSource(NamedSource):
    """Every picture below a folder, sorted folder by folder.

    Labelled by first-level subfolder when all pictures lie directly in at least two such.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._others, self._other = 0, ""
        super().__init__(str(root), PackedNames(self._walk("", ())))
        if not len(self):
            raise no_pictures(str(root), self._others, self._other)
        self.classes, self.labels = folder_labels(self.names)

    def read(self, i: int) -> bytes:
        return read_file(os.path.join(self._root, self.names[i]))

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[str]:
        here = os.path.join(self._root, folder)
        real = os.path.realpath(here)
        if real in above:  # a link back up
            return
        try:
            with os.scandir(here) as scan:
                entries = sorted((e.name, e.is_dir()) for e in scan if not e.name.startswith("."))
        except OSError as error:
            raise UserError(f"folder '{here}' cannot be read: {error.strerror}") from error
        for name, is_folder in entries:
            path = f"{folder}/{name}" if folder else name
            if is_folder:
                yield from self._walk(path, (*above, real))
            elif is_picture(name):
                yield path
            else:
                self._others, self._other = self._others + 1, path


def read_file(path: str) -> bytes:
    """The bytes of a file; BrokenImage where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from error
