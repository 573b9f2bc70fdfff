"""A folder of pictures or clips, nested as deep as it likes."""

import os
from collections.abc import Iterator
from pathlib import Path

from vistill.data.broken import BrokenImage
from vistill.data.source import (
    PICTURES,
    Media,
    NamedSource,
    Others,
    PackedNames,
    folder_labels,
    no_samples,
)
from vistill.errors import UserError


class FolderSource(NamedSource):
    """Every picture (or clip) below a folder, sorted folder by folder.

    Labelled by first-level subfolder when all of them lie directly in at least two such.
    """

    def __init__(self, root: Path, media: Media = PICTURES) -> None:
        self._root = os.path.abspath(root)
        others = Others()
        super().__init__(str(root), PackedNames(self._walk("", (), media, others)), media)
        if not len(self):
            raise no_samples(media, str(root), others)
        self.classes, self.labels = folder_labels(self.names)

    def read(self, i: int) -> bytes:
        return read_file(self.place(i))

    def place(self, i: int) -> str:
        return os.path.join(self._root, self.names[i])

    def _walk(
        self, folder: str, above: tuple[str, ...], media: Media, others: Others
    ) -> Iterator[str]:
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
                yield from self._walk(path, (*above, real), media, others)
            elif media.holds(name):
                yield path
            else:
                others.add(path)


def read_file(path: str) -> bytes:
    """The bytes of a file; BrokenImage where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from error
