"""From a path to a Source."""

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vistill.data.archive import TarSource
from vistill.data.folder import FolderSource
from vistill.data.frame_folders import LEAST, FrameFolderSource
from vistill.data.kept_source import keep
from vistill.data.listing import READERS, ListSource
from vistill.data.parquet import open_parquet
from vistill.data.passed_over import PassedOver
from vistill.data.patterns import expand_braces, matching
from vistill.data.source import CLIPS, PICTURES, Decoding, Media, NamedSource, Source, missing
from vistill.data.zips import ZipSource
from vistill.errors import UserError
from vistill.files import local_path

KINDS = "a folder, a .txt, .csv, .tsv, .json, .jsonl or .parquet list, .tar shards or a .zip"
_LISTS = {*READERS, ".parquet"}
INDEX = "index.parquet"
PREPARED = (INDEX, "prepare.json")
"""Files of a folder that `vistill prepare` wrote."""
Root = str | os.PathLike[str] | None
_TARS = {".tar", ".tgz", ".tbz2", ".txz"}


def open_source(
    path: str,
    media: Literal["image", "video"] = "image",
    *,
    root: str | os.PathLike[str] | None = None,
    decoding: Decoding | None = None,
) -> Source:
    """Open the pictures or clips at `path`: a folder, lists, `.tar` shards, `.zip` files (several
    by a glob, braces or their folder), or a folder inside a zip (`pictures.zip/train`).

    Args:
        path: where they are.
        media: what they are.
        root: where relative paths in lists start; None: at each list's own folder.
        decoding: how pictures are to be understood.

    Raises:
        UserError: in one sentence, when it is missing, empty, damaged or of another kind.
    """
    place = local_path(path)
    if root is not None:
        root = local_path(os.fspath(root), "the root")
        if not root.is_dir():
            raise missing(root) if not root.exists() else UserError(f"'{root}' is no folder")
    source = _open(path, place, PICTURES if media == "image" else CLIPS, root)
    if root is not None and not isinstance(source, ListSource):
        raise UserError(f"root={root} is where the paths of a list start, and '{path}' is no list")
    if decoding is not None:
        source.decoding = decoding
    return source


def _open(path: str, place: Path, kind: Media, root: Root) -> Source:
    if place.is_dir():
        return _open_folder(place, kind, root)
    if place.exists():
        return _open_files(path, [place], kind, root)
    if found := matching(str(place)):
        return _open_files(path, found, kind, root)
    for parent in place.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return ZipSource(path, [parent], place.relative_to(parent).as_posix(), kind)
    if glob.has_magic(str(place)) or expand_braces(str(place)) != [str(place)]:
        raise UserError(f"nothing matches '{path}'")
    raise missing(place)


def _open_folder(folder: Path, media: Media, root: Root) -> Source:
    """What lies in a folder: an index of `vistill prepare`, samples, or else archives or Parquet
    files of samples."""
    if all((folder / name).is_file() for name in PREPARED):
        return _open_files(str(folder), [folder / INDEX], media, root)
    passed = PassedOver(media)
    try:
        told = ("folder", str(folder), os.path.abspath(folder))
        return keep(told, media, None, lambda: FolderSource(folder, media, passed))
    except UserError:
        if not passed.archives:
            if any(count >= LEAST for count in passed.frame_folders.values()):
                return FrameFolderSource(folder, passed.frame_folders)
            raise
    lists = [name for name in passed.archives if name.endswith(".parquet")]
    archives = sorted(set(passed.archives) - set(lists)) or lists
    source = _open_files(str(folder), [folder / name for name in archives], media, root)
    if archives != lists and lists:
        source.notes.append(f"passed over {len(lists)} .parquet beside its archives: '{lists[0]}'")
    return source


def _open_files(path: str, files: list[Path], media: Media, root: Root) -> Source:
    """One file, or several of one kind."""
    for file in files:
        if not file.is_file():
            what = "a folder; give one folder alone" if file.is_dir() else "no regular file"
            raise UserError(f"'{file}' is {what}")
    kinds = sorted({_kind(file) for file in files})
    if make := _maker(path, kinds, files, media, root):
        told = (*kinds, path, "" if root is None else os.path.abspath(root))
        return keep(told, media, files, make)
    if len(files) > 1 and set(kinds) <= {".tar", ".zip", *_LISTS}:
        raise UserError(
            f"'{path}' names {len(files)} files ({', '.join(kinds)}); several have to be of one "
            "kind"
        )
    file = next(file for file in files if _kind(file) not in (".tar", ".zip", *_LISTS))
    hint = ""
    for kind in (PICTURES, CLIPS):
        if kind.holds(file.name):
            hint = f"; it is a {kind.noun}: give the folder that it lies in"
    raise UserError(f"'{file}' is not {KINDS}{hint}")


def _maker(
    path: str, kinds: list[str], files: list[Path], media: Media, root: Root
) -> Callable[[], NamedSource] | None:
    """What opens files of these kinds."""
    if kinds == [".tar"]:
        return lambda: TarSource(path, files, media)
    if kinds == [".zip"]:
        return lambda: ZipSource(path, files, media=media)
    if kinds == [".parquet"]:
        return lambda: open_parquet(path, files, media, root)
    if len(kinds) == 1 and (read := READERS.get(kinds[0])):
        return lambda: ListSource(path, [read(file, media) for file in files], media, root)
    return None


def _kind(file: Path) -> str:
    """The ending that tells how a file is read; `.tar` for compressed ones too."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    last = suffixes[-1] if suffixes else ""
    return ".tar" if last not in (".zip", *_LISTS) and _TARS.intersection(suffixes) else last
