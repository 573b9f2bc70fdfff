"""Where samples are by habit, and where a file can be written."""

import os
from pathlib import Path

from vistill.errors import UserError
from vistill.files import local_path


def usual_parts(data: str) -> tuple[str, str | None]:
    """Training and test pictures, from the usual subfolders where `data` has them."""
    folder = local_path(data)
    for name in ("val", "test"):
        if (folder / "train").is_dir() and (folder / name).is_dir():
            return str(folder / "train"), str(folder / name)
    return data, None


def require_writable(out: Path) -> None:
    """
    Raises:
        UserError: no file can be written there.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise UserError(f"folder {out.parent} does not exist")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a JSON file to write")
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to the folder {out.parent}")
