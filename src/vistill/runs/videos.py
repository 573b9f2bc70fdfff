"""Which videos `prepare` is about: those at a path, or those of a published collection."""

import os
from typing import Any

from vistill.config.suggest import nearest
from vistill.data import Source, open_source
from vistill.data.importers.collection import FORMATS, WEBDATASET, open_collection
from vistill.errors import UserError


def open_videos(
    source: str | None,
    format: str | None,
    annotations: str | None,
    root: str | None,
    split: str | None,
    classes: str | None,
) -> Source:
    """The videos at `source`, or those of a published collection.

    Raises:
        UserError: what is given does not go together, or cannot be read.
    """
    if format is None:
        for name, value in (("annotations", annotations), ("split", split), ("classes", classes)):
            if value is not None:
                raise UserError(f"--{name} goes with --format, one of {', '.join(FORMATS)}")
        if source is None:
            raise UserError("prepare needs videos: a folder, list or shards, or a --format")
        return open_source(source, "video", root=root)
    if format not in FORMATS:
        near = nearest(format, FORMATS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"--format must be one of {', '.join(FORMATS)}, not {format!r}{hint}")
    if source is not None:
        raise UserError(f"with --format the videos are those in --root, so leave out '{source}'")
    if root is None or (annotations is None and format != WEBDATASET):
        needed = "--root DIR" if root is None else "--annotations FILE"
        raise UserError(f"--format {format} needs {needed}")
    return open_collection(format, annotations, root, split, classes)


def which_videos(origin: dict[str, Any]) -> dict[str, Any]:
    """What of a call says which videos are meant, with paths that mean the same everywhere."""
    words = ("format", "split")
    return {
        name: value if name in words else os.path.abspath(value)
        for name, value in origin.items()
        if value is not None
    }
