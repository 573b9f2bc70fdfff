"""From a path to a Source."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vistill.data.archive import TarSource
from vistill.data.folder import FolderSource
from vistill.data.listing import open_csv, open_text
from vistill.data.parquet import open_parquet
from vistill.data.passed_over import PassedOver
from vistill.data.patterns import expand_braces, matching
from vistill.data.source import CLIPS, PICTURES, Decoding, Media, Source, missing
from vistill.data.zips import ZipSource
from vistill.errors import UserError
from vistill.files import local_path

KINDS = "a folder, a .txt, .csv or .parquet list, .tar shards or a .zip"
_LISTS: dict[str, Callable[[Path, Media], Source]] = {
    ".txt": open_text,
    ".csv": open_csv,
    ".parquet": open_parquet,
}
_TARS = {".tar", ".tgz", ".tbz2", ".txz"}


def open_source(
    path: str, media: Literal["image", "video"] = "image", decoding: Decoding | None = None
) -> Source:
    """Open the pictures or clips at `path`: a folder, a list, `.tar` shards, `.zip` files (several
    by a glob, braces or their folder), or a folder inside a zip (`pictures.zip/train`).

    Raises:
        UserError: in one sentence, when it is missing, empty, damaged or of another kind.
    """
    source = _open(path, PICTURES if media == "image" else CLIPS)
    if decoding is not None:
        source.decoding = decoding
    return source


def _open(path: str, kind: Media) -> Source:
    place = local_path(path)
    if place.is_dir():
        return _open_folder(place, kind)
    if place.exists():
        return _open_files(path, [place], kind)
    if found := matching(str(place)):
        return _open_files(path, found, kind)
    for parent in place.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return ZipSource(path, [parent], place.relative_to(parent).as_posix(), kind)
    if glob.has_magic(str(place)) or expand_braces(str(place)) != [str(place)]:
        raise UserError(f"nothing matches '{path}'")
    raise missing(place)


def _open_folder(folder: Path, media: Media) -> Source:
    """What lies in a folder: samples, or else archives of samples."""
    passed = PassedOver(media)
    try:
        return FolderSource(folder, media, passed)
    except UserError:
        if not passed.archives:
            raise
    return _open_files(str(folder), [folder / name for name in passed.archives], media)


def _open_files(path: str, files: list[Path], media: Media) -> Source:
    """One file, or several archives of one kind."""
    for file in files:
        if not file.is_file():
            what = "a folder; give one folder alone" if file.is_dir() else "no regular file"
            raise UserError(f"'{file}' is {what}")
    kinds = sorted({_kind(file) for file in files})
    if kinds == [".tar"]:
        return TarSource(path, files, media)
    if kinds == [".zip"]:
        return ZipSource(path, files, media=media)
    if len(files) == 1 and kinds[0] in _LISTS:
        return _LISTS[kinds[0]](files[0], media)
    if len(files) > 1 and set(kinds) <= {".tar", ".zip", *_LISTS}:
        raise UserError(
            f"'{path}' names {len(files)} files ({', '.join(kinds)}); only .tar shards or .zip "
            "files can be several, and all of one kind"
        )
    file = next(file for file in files if _kind(file) not in (".tar", ".zip", *_LISTS))
    hint = ""
    for kind in (PICTURES, CLIPS):
        if kind.holds(file.name):
            hint = f"; it is a {kind.noun}: give the folder that it lies in"
    raise UserError(f"'{file}' is not {KINDS}{hint}")


def _kind(file: Path) -> str:
    """The ending that tells how a file is read; `.tar` for compressed ones too."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    last = suffixes[-1] if suffixes else ""
    return ".tar" if last not in (".zip", *_LISTS) and _TARS.intersection(suffixes) else last
