"""Local files: their paths as people write them, and writing one whole or not at all."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from vistill.errors import UserError

PARTIAL = ".partial-"
_KEPT_NAME = 200
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+://|pipe:|https?:")


def near_path(path: str | os.PathLike[str]) -> str:
    """`; did you mean X?` of what lies beside a missing `path` and is spelt most like it."""
    place = Path(path)
    try:
        beside = [other.name for other in place.parent.iterdir()]
    except OSError:
        return ""
    near = get_close_matches(place.name, beside, n=1)
    return f"; did you mean {place.with_name(near[0])}?" if near else ""


def local_path(path: str, what: str = "the data") -> Path:
    """`path` with `~` resolved.

    Raises:
        UserError: it is empty, or a URL.
    """
    if not path.strip():
        raise UserError(f"the path of {what} is empty; write '.' for the folder you are in")
    if _URL.match(path) and not Path(path).exists():
        raise UserError(
            f"'{path}' is a URL, and {what} can only be read from local files: download them first "
            "and give their path"
        )
    return Path(path).expanduser()


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only once it is complete and on disk.

    A killed writer leaves at most `.partial-XXXX-NAME` beside it, where XXXX is of its own, so that
    two writers never share one; an earlier file stays as it was.

    Raises:
        OSError: it could not be written; names `path`, also where the disk was full.
    """
    # Names have up to 255 bytes: of a long one the end is kept.
    end = os.fsdecode(os.fsencode(path.name)[-_KEPT_NAME:])
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{end}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) through `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial(folder: Path) -> None:
    """Delete what killed writers left in `folder`."""
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink()


def byte_size(count: float) -> str:
    """Bytes in the unit that reads best, such as `1.5 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
