"""From a path to a Source."""

import glob
from pathlib import Path
from typing import Literal

from vistill.data.archive import TarSource, ZipSource
from vistill.data.broken import BrokenImage
from vistill.data.decode import decode_image
from vistill.data.folder import FolderSource
from vistill.data.listing import open_csv, open_text
from vistill.data.parquet import open_parquet
from vistill.data.source import CLIPS, PICTURES, Media, Source, missing
from vistill.errors import UserError

SAMPLED = 8
KINDS = "a folder, a .txt, .csv or .parquet list, .tar shards or a .zip"


def open_source(path: str, media: Literal["image", "video"] = "image") -> Source:
    """Open the pictures or clips at `path`: a folder, a list, `.tar` shards (a glob for several), a
    `.zip`, or a folder inside one (`pictures.zip/train`).

    Raises:
        UserError: in one sentence, when it is missing, empty, damaged or of another kind.
    """
    kind = PICTURES if media == "image" else CLIPS
    place = Path(path).expanduser()
    if place.is_dir():
        return FolderSource(place, kind)
    if not place.exists():
        shards = [Path(found) for found in sorted(glob.glob(str(place), recursive=True))]
        if shards:
            return _shards(path, shards, kind)
        for parent in place.parents:
            if parent.suffix.lower() == ".zip" and parent.is_file():
                return ZipSource(path, parent, place.relative_to(parent).as_posix(), kind)
        if glob.has_magic(str(place)):
            raise UserError(f"nothing matches '{path}'")
        raise missing(place)
    match place.suffix.lower():
        case ".txt":
            return open_text(place, kind)
        case ".csv":
            return open_csv(place, kind)
        case ".parquet":
            return open_parquet(place, kind)
        case ".zip":
            return ZipSource(path, place, media=kind)
        case _:
            return _shards(path, [place], kind)


def require_readable(source: Source) -> None:
    """Decode a few pictures from all over the source, until one can be read.

    Raises:
        UserError: none of them can.
    """
    told = []
    for i in sorted({n * len(source) // SAMPLED for n in range(SAMPLED)}):
        try:
            decode_image(source.read(i))
            return
        except BrokenImage as error:
            told.append(f"{source.sample_name(i)} ({error})")
    raise UserError(
        f"none of {len(told)} pictures tried in '{source.name}' can be read: {', '.join(told)}"
    )


def _shards(path: str, files: list[Path], media: Media) -> TarSource:
    for file in files:
        if not {".tar", ".tgz", ".tbz2", ".txz"}.intersection(s.lower() for s in file.suffixes):
            raise UserError(f"'{file}' is not {KINDS}")
    return TarSource(path, files, media)
