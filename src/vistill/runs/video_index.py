"""The folder that `prepare` fills: whose it is, what is left to do, what a collection came to."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.errors import Failure, UserError
from vistill.files import PARTIAL, write_atomic
from vistill.locking import LOCK
from vistill.runs.results import say

if TYPE_CHECKING:
    from vistill.data.video.prepare import Work

INDEX = "index.parquet"
_MARKER = "prepare.json"
_SHOWN = 10
_LONG = 250
"""Frames above which a video that is read from its start only is worth a word."""


@dataclass(frozen=True)
class PrepareResult:
    """What a collection came to.

    Attributes:
        index: the Parquet file to give to `--data`.
        clips: videos without a problem.
        problems: name and problem of the others, which the index lists too.
        seconds: of video without a problem.
        size: bytes of it.
        lengths: frames of the shortest, the median and the longest; None without clips.
        codecs: how many have which.
        damaged: share of damaged frames, of those among them that have any.
        doubles: videos whose bytes are those of an earlier one.
        from_start: videos whose frames can be reached from their start alone.
        splits: the Parquet file of each part of the collection, where there are several.
    """

    index: Path
    clips: int
    problems: dict[str, str]
    seconds: float
    size: int
    lengths: tuple[int, int, int] | None
    codecs: dict[str, int]
    damaged: dict[str, float]
    doubles: int
    from_start: int
    splits: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        from vistill.training.progress import duration

        lines = ["no clip without a problem"]
        if self.lengths is not None:
            low, middle, high = self.lengths
            codecs = ", ".join(f"{count} {name}" for name, count in self.codecs.items())
            lines = [
                f"{self.clips} clips of {low} to {high} frames (median {middle}), "
                f"{duration(self.seconds)} in all, {self.size / 1e6:.1f} MB: {codecs}"
            ]
        if self.damaged:
            worst, share = max(self.damaged.items(), key=lambda one: one[1])
            lines.append(
                f"{len(self.damaged)} of them have damaged frames (column 'corrupt'), {worst} "
                f"the most, {share:.1%}"
            )
        if self.doubles:
            lines.append(f"{self.doubles} of them repeat an earlier one (column 'hash')")
        if self.from_start:
            lines.append(
                f"{self.from_start} of them can only be read from the start, which is slow (column "
                "'proof'); --transcode makes them quick"
            )
        if self.problems:
            lines.append(f"{len(self.problems)} have a problem, and training leaves them out:")
            shown = list(self.problems.items())[:_SHOWN]
            lines += [f"  {name}: {problem}" for name, problem in shown]
            if len(self.problems) > _SHOWN:
                lines.append(f"  and {len(self.problems) - _SHOWN} more (column 'problem')")
        lines += [f"index of {split}: {path}" for split, path in self.splits.items()]
        return "\n".join([*lines, f"index: {self.index}"])


def carry_out(work: "Work", shards: float | None, workers: int | None) -> PrepareResult:
    """Do what is left to do in a folder, and write the index."""
    from vistill.data import default_workers
    from vistill.data.video.prepare import (
        pack,
        packed_clips,
        read_journal,
        remove_partials,
        still_holds,
        write_index,
    )

    folder, index = work.folder, work.folder / INDEX
    remove_partials(folder)
    packed, known = packed_clips(folder), read_journal(folder)
    tasks = list(work.tasks())
    rows = {
        task.key: known[task.key]
        for task in tasks
        if still_holds(task, known.get(task.key), folder, packed, work.timeout)
    }
    if rows:
        say(f"{len(rows)} of {len(tasks)} videos were done before")
    left = [task for task in tasks if task.key not in rows]
    undone: dict[str, str] = {}
    with closing(_Progress(len(left))) as progress:
        for task, row in work.run(left, default_workers() if workers is None else workers):
            if isinstance(row, str):
                undone[task.key] = row
            else:
                rows[task.key] = row
                progress.add(sum(task.stamp[:1]), problem=row["problem"] is not None)
    # What is known of a video stays true where the annotation has changed, but not its class.
    ordered = [
        {**rows[task.key], "label": task.label, "split": task.split}
        for task in tasks
        if task.key in rows
    ]
    if shards is not None:
        pack(folder, ordered, shards)
    write_index(index, ordered)
    result = _summary(index, ordered)
    if undone:
        say(result)
        few = "; ".join(f"{name}: {reason}" for name, reason in list(undone.items())[:_SHOWN])
        raise Failure(
            f"{len(undone)} of {len(tasks)} videos are left undone and not in the index ({few}); "
            "the same command tries them again, with fewer --workers beside less other work"
        )
    return result


def check_folder(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether `folder` is that of this collection already; nothing is written.

    Raises:
        UserError: it is something else, or was prepared otherwise.
    """
    marker = folder / _MARKER
    if not marker.is_file():
        if folder.exists() and not (folder.is_dir() and all(map(_leftover, folder.iterdir()))):
            what = "not empty" if folder.is_dir() else "a file"
            raise UserError(f"{folder} is {what}; choose another folder for the index")
        return False
    same = marker.read_text(encoding="utf-8") == _text(settings)
    if not same and not overwrite:
        raise UserError(
            f"{folder} was prepared from another source or with other settings (see {marker}); "
            "choose another folder, or --overwrite"
        )
    return same


def claim(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make `folder`, which is locked, that of this collection."""
    from vistill.data.importers.collection import MISSING
    from vistill.data.video.prepare import JOURNAL

    if not check_folder(folder, settings, overwrite=overwrite):
        known = (folder / name for name in (JOURNAL, INDEX, MISSING))
        for old in (*known, *folder.glob("index-*.parquet"), *folder.glob("shard-*.tar")):
            old.unlink(missing_ok=True)
        write_atomic(folder / _MARKER, _text(settings))


def _leftover(path: Path) -> bool:
    """Whether this is what a killed start leaves."""
    return path.name == LOCK or path.name.startswith(PARTIAL)


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"


class _Progress:
    """How far, how fast, how long still: a bar in a terminal, else a line every quarter of a
    minute."""

    def __init__(self, total: int) -> None:
        from vistill.training.progress import Meter

        self.done = self.size = self.problems = 0
        self.start = time.monotonic()
        self._total, self._meter = total, Meter(0, total, "videos")

    def add(self, size: int, *, problem: bool) -> None:
        """One more video of so many bytes is done."""
        from vistill.training.progress import duration

        seconds = max(time.monotonic() - self.start, 1e-9)
        self.done, self.size = self.done + 1, self.size + size
        self.problems += problem
        eta = seconds / self.done * (self._total - self.done)
        parts = [f"{self.done / seconds:.1f} videos/s", f"{self.size / 1e6 / seconds:.1f} MB/s"]
        parts += [f"ETA {duration(eta)}"]
        parts += [f"{self.problems} with a problem"] if self.problems else []
        self._meter.update(self.done, " · ".join(parts))

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._meter.close()


def _from_start(row: dict[str, Any]) -> bool:
    """Whether none but the first key frame can be jumped to, in a video that has several."""
    proof = row.get("proof")
    return proof is not None and len(proof["entries"]) < 2 and row["frames"] > _LONG


def _summary(index: Path, rows: Sequence[dict[str, Any]]) -> PrepareResult:
    from vistill.data.video.prepare import split_index

    splits = sorted({row["split"] for row in rows if row["split"]})
    fine = [row for row in rows if row["problem"] is None]
    frames = sorted(row["frames"] for row in fine)
    return PrepareResult(
        index=index,
        clips=len(fine),
        problems={row["key"]: row["problem"] for row in rows if row["problem"] is not None},
        seconds=sum(row["duration"] for row in fine),
        size=sum(row["size"] for row in fine),
        lengths=(frames[0], frames[len(frames) // 2], frames[-1]) if frames else None,
        codecs=dict(Counter(row["codec"] for row in fine).most_common()),
        damaged={
            row["key"]: min(1.0, row["corrupt"] / row["frames"]) for row in fine if row["corrupt"]
        },
        doubles=len(fine) - len({row["hash"] for row in fine}),
        from_start=sum(_from_start(row) for row in fine),
        splits={name: split_index(index, name) for name in splits if len(splits) > 1},
    )
