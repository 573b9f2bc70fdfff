"""Size and time of change: by them a sample that was replaced under its old name is noticed.

One look at every file, without opening it; archives tell sizes (and zips checksums) themselves.
"""

import io
import os
import stat
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vistill.errors import UserError
from vistill.files import write_atomic

STAMPS = "stamps.npy"
"""Their file, in the folder of a run or a cache."""
_NAMED = 3

Stamps = Int[np.ndarray, "n 2"]
"""Of every sample a number that no other content has but by chance (its size, or size and
checksum), and one that may also change where nothing else does (its time of change)."""


class Changed(NamedTuple):
    """Positions of samples that are not what they were.

    Attributes:
        surely: they have another size or checksum.
        perhaps: they have only another time of change, as copies have.
    """

    surely: Int[np.ndarray, " k"]
    perhaps: Int[np.ndarray, " k"]


def file_stamps(paths: Iterable[str]) -> Stamps:
    """Size and time of change in nanoseconds of every file; -1 and 0 where there is none.

    Of a folder of frames they are those of its files together.
    """
    numbers = array("q")
    for path in paths:
        try:
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode):
                numbers.extend(_folder_stamp(path))
            else:
                numbers.extend((found.st_size, found.st_mtime_ns))
        except OSError:
            numbers.extend((-1, 0))
    return np.frombuffer(numbers, dtype=np.int64).reshape(-1, 2)


def _folder_stamp(path: str) -> tuple[int, int]:
    """Size of all files in a folder, and the newest of their times."""
    with os.scandir(path) as scan:
        found = [entry.stat() for entry in scan if entry.is_file()]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def changed(before: Stamps, now: Stamps) -> Changed:
    """Which of the same number of samples differ."""
    sure = before[:, 0] != now[:, 0]
    maybe = ~sure & (before[:, 1] != now[:, 1])
    return Changed(np.flatnonzero(sure), np.flatnonzero(maybe))


def names(source: Any, ids: Int[np.ndarray, " k"]) -> str:
    """The first few names of samples, and how many there are besides."""
    shown = ", ".join(source.sample_name(int(i)) for i in ids[:_NAMED])
    more = len(ids) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def write_stamps(folder: Path, stamps: Stamps) -> None:
    """Keep them in `folder`."""
    content = io.BytesIO()
    np.save(content, stamps, allow_pickle=False)
    write_atomic(folder / STAMPS, content.getvalue())


def read_stamps(folder: Path, count: int) -> Stamps | None:
    """Those kept in `folder`, of `count` samples; None where there are none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / STAMPS
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape != (count, 2) or found.dtype != np.int64:
            raise ValueError(f"shape {found.shape} instead of {(count, 2)}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it") from error
    return found
