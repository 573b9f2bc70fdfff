"""Clips as folders of numbered pictures, one folder a clip."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from vistill.data.names import PackedNames
from vistill.data.source import CLIPS, PICTURES, NamedSource

LEAST = 2
"""Numbered pictures that make a folder a clip."""
_NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)")


def frame_number(name: str) -> tuple[str, int] | None:
    """The row that a file belongs to and its number in it; None: it is no numbered picture."""
    found = _NUMBERED.fullmatch(name)
    if found is None or not PICTURES.holds(name):
        return None
    prefix, number, ending = found.groups()
    return f"{prefix}{ending.lower()}", int(number)


class FrameFolderSource(NamedSource):
    """Every folder below a folder that holds numbered pictures; labelled like files.

    Args:
        root: the folder.
        folders: below it, with the number of their numbered pictures.
    """

    def __init__(self, root: Path, folders: Mapping[str, int]) -> None:
        self._root = os.path.abspath(root)
        names = [folder or "." for folder, count in folders.items() if count >= LEAST]
        super().__init__(str(root), PackedNames(names), CLIPS)
        if names:
            self.label_by_folders()
        self.notes = [
            f"no video in it; {len(names)} folders of numbered pictures are read as clips"
            if len(names) > 1
            else "no video in it; its folder of numbered pictures is read as a clip"
        ]

    def place(self, i: int) -> str:
        return os.path.normpath(os.path.join(self._root, self.names[i]))
