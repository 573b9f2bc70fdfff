"""A collection of videos from one state to the next: what to do, doing it, shards, the index."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from vistill.data.archive import ShardSource
from vistill.data.broken import BrokenImage
from vistill.data.columns import FRAME_COLUMNS, SPAN_COLUMNS
from vistill.data.parallel import Lost, Stopped, in_parallel
from vistill.data.parquet import require_parquet
from vistill.data.source import CLIPS, Source, Stretch
from vistill.data.tar_members import tar_members
from vistill.data.video.inspect import DAMAGED, Facts, inspect
from vistill.data.video.transcode import Recipe, transcode
from vistill.errors import Failure
from vistill.files import PARTIAL, atomic_writer

CLIPS_FOLDER = "clips"
JOURNAL = "files.jsonl"
KILLED = "the process that read it was killed"
"""Problem of a row of version 0.1, which did not know what had happened."""
TIMEOUT = 300.0
UNREADABLE = (ValueError, ArithmeticError, LookupError)
"""What PyAV raises, besides its own errors, where bytes are damaged."""
Packed = dict[str, tuple[str, int, int]]
"""Shard, offset and size by member."""


@dataclass(frozen=True)
class Task:
    """One video to be looked at.

    Attributes:
        key: its name, and how often that name came before.
        number: position in the source.
        label: name of its class, or None.
        split: part of the collection that it belongs to, or None.
        stamp: size and time of change of its file; empty in an archive.
        target: name of its new file, or None.
    """

    key: str
    number: int
    label: str | None
    split: str | None
    stamp: list[int]
    target: str | None

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class Work:
    """What is done to every video, in whatever process.

    Attributes:
        source: of the videos.
        folder: where new files go.
        quick: whether three frames are enough.
        recipe: of the new files; None writes none.
        max_damaged: share of damaged frames above which a video has a problem.
        timeout: seconds without a sign of life after which reading a video is given up; twice that
            for one of a gigabyte, and so on.
    """

    source: Source
    folder: Path
    quick: bool
    recipe: Recipe | None
    max_damaged: float = DAMAGED
    timeout: float = TIMEOUT

    def __call__(self, task: Task) -> Facts:
        try:
            place, stretch = self.source.place(task.number), self.source.span(task.number)
            facts = inspect(place, quick=self.quick, max_damaged=self.max_damaged)
            facts = _of_part(facts, stretch, self.max_damaged)
            if self.recipe is None or task.target is None or facts.problem is not None:
                return facts
            target = self.folder / CLIPS_FOLDER / task.target
            target.parent.mkdir(parents=True, exist_ok=True)
            transcode(place, target, self.recipe, stretch)
        except BrokenImage as error:
            return Facts(problem=str(error))
        except UNREADABLE as error:
            return Facts(problem=f"cannot be read: {type(error).__name__}: {error}")
        return replace(inspect(str(target), quick=True), corrupt=facts.corrupt)

    def tasks(self) -> Iterator[Task]:
        """One per video; new files are named like the old ones as far as possible."""
        source, came = self.source, Counter[str]()
        on_disk = isinstance(source.place(0), str)
        for number in range(len(source)):
            name, label, stamp, target = source.sample_name(number), None, [], None
            came[name] += 1
            key = name if came[name] == 1 else f"{name} ({came[name]})"
            if source.labels is not None and source.classes and source.labels[number] >= 0:
                label = source.classes[source.labels[number]]
            if on_disk and os.path.exists(place := source.place(number)):
                stamp = [os.path.getsize(place), os.stat(place).st_mtime_ns]
            if self.recipe is not None:
                stem = _safe_stem(key)
                came[f"/{stem}"] += 1
                again = came[f"/{stem}"]
                target = f"{stem}{'' if again == 1 else f'-{again}'}{self.recipe.suffix}"
            elif isinstance(source, ShardSource):
                shard = os.stat(source.member(number)[1])
                stamp = [shard.st_size, shard.st_mtime_ns]
            split = None if source.splits is None else source.splits[number]
            yield Task(key, number, label, split, stamp, target)

    def limit(self, task: Task) -> float:
        """Seconds without a sign of life after which a video is taken to hang."""
        return self.timeout * (1 + sum(task.stamp[:1]) / 1e9)

    def row(self, task: Task, facts: Facts, waited: float | None = None) -> dict[str, Any]:
        """One line of the journal, of which the index is made."""
        source, number = self.source, task.number
        shard: dict[str, Any] = {}
        place: str | bytes
        if self.recipe is None and isinstance(source, ShardSource):
            place, file, offset = source.member(number)
            shard = {"shard": file, "offset": offset}
        else:
            place = source.place(number) if task.stamp else source.sample_name(number)
        fine = task.target if facts.problem is None else None
        cut = source.span(number) if fine is None else None
        return {
            "key": task.key,
            "stamp": task.stamp,
            "target": fine,
            "path": place if fine is None else f"{CLIPS_FOLDER}/{fine}",
            "label": task.label,
            **asdict(facts),
            **_part_columns(cut),
            "source": source.sample_name(number),
            "waited": waited,
            **shard,
        }

    def run(
        self, tasks: Iterable[Task], workers: int
    ) -> Iterator[tuple[Task, dict[str, Any] | str]]:
        """Do the tasks and note each in the journal as soon as it is done.

        A text instead of a row says why a task is left undone, through no fault of the video.

        Raises:
            Failure: there is no going on, for want of disk space or anything else that is not a
                damaged video.
        """
        with open(self.folder / JOURNAL, "ab") as journal:
            try:
                for task, facts in in_parallel(self, tasks, workers, self.limit):
                    waited = None
                    if isinstance(facts, Lost):
                        if not facts.guilty:
                            yield task, facts.reason
                            continue
                        facts, waited = Facts(problem=facts.reason), self.timeout
                    row = self.row(task, facts, waited)
                    journal.write(json.dumps(row).encode() + b"\n")
                    journal.flush()
                    yield task, row
            except Stopped as stop:
                raise Failure(
                    f"stopped at {stop.task}: {_told(stop.__cause__)}; what is done is kept, and "
                    "the same command continues"
                ) from stop.__cause__
            finally:
                remove_partials(self.folder)


def remove_partials(folder: Path) -> None:
    """Delete what killed processes left."""
    for path in folder.rglob(f"{PARTIAL}*"):
        path.unlink(missing_ok=True)


def _told(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}"
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"


def read_journal(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest row of every video that was done; a line cut short by a kill does not count."""
    rows: dict[str, dict[str, Any]] = {}
    path = folder / JOURNAL
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        rows = {row["key"]: row for row in map(json.loads, whole.splitlines())}
    return rows


def still_holds(
    task: Task, row: dict[str, Any] | None, folder: Path, packed: Packed, timeout: float
) -> bool:
    """Whether a row of the journal is what doing the task again would come to."""
    if row is None or row["stamp"] != task.stamp or row["problem"] == KILLED:
        return False
    if timeout > (row.get("waited") or timeout):  # it hung, and may take longer now
        return False
    if row["target"] is None:
        return task.target is None or row["problem"] is not None
    there = folder / CLIPS_FOLDER / row["target"]
    size = packed.get(row["target"], ("", 0, -1))[2]
    if there.is_file():
        size = there.stat().st_size
    return row["target"] == task.target and size == row["size"]


def packed_clips(folder: Path) -> Packed:
    """What the shards in `folder` hold; of members of the same name the last."""
    return {
        name: (shard.name, offset, size)
        for shard in sorted(folder.glob("shard-*.tar"))
        for name, offset, size in tar_members(shard)
        if CLIPS.holds(name)
    }


def pack(folder: Path, rows: list[dict[str, Any]], megabytes: float) -> None:
    """Move new files into further `.tar` shards, with labels as `.cls`; rows then name the shard.

    A shard appears whole; only then are its files deleted, so that a kill loses nothing.
    """
    loose = [row for row in rows if row["target"] and _loose(folder, row).is_file()]
    while loose:
        group: list[dict[str, Any]] = []
        size = 0
        while loose and (not group or size < megabytes * 1e6):
            group.append(loose.pop(0))
            size += group[-1]["size"]
        number = len(list(folder.glob("shard-*.tar")))
        with (
            atomic_writer(folder / f"shard-{number:05}.tar") as file,
            tarfile.open(fileobj=file, mode="w") as shard,
        ):
            for row in group:
                shard.add(_loose(folder, row), row["target"], filter=_plain)
                if row["label"] is not None:
                    text = row["label"].encode()
                    member = tarfile.TarInfo(f"{Path(row['target']).with_suffix('')}.cls")
                    member.size = len(text)
                    shard.addfile(member, BytesIO(text))
        for row in group:
            _loose(folder, row).unlink()
    for path, _, _ in os.walk(folder / CLIPS_FOLDER, topdown=False):
        os.rmdir(path)
    packed = packed_clips(folder)
    for row in rows:
        if row["target"]:
            row["shard"], row["offset"], _ = packed[row["target"]]
            row["path"] = row["target"]


def write_index(path: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as Parquet, one per video, all or nothing; where they belong to several splits, also
    those of each, as `NAME-SPLIT.parquet`."""
    splits = sorted({row["split"] for row in rows if row.get("split")})
    parts = {split_index(path, split): split for split in splits if len(splits) > 1}
    for old in path.parent.glob(split_index(path, "*").name):
        if old not in parts:
            old.unlink()
    _write_rows(path, rows)
    for part, split in parts.items():
        _write_rows(part, [row for row in rows if row["split"] == split])


def split_index(path: Path, split: str) -> Path:
    """The index of one split, beside that of all of them."""
    return path.with_name(f"{path.stem}-{split}{path.suffix}")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet = require_parquet()
    import pyarrow as pa

    text, number, real = pa.string(), pa.int64(), pa.float64()
    proof = pa.struct({"packets": number, "order": pa.list_(number), "entries": pa.list_(number)})
    kinds = {"path": text, "label": text, "duration": real, "fps": real, "frames": number,
             "width": number, "height": number, "size": number, "codec": text, "hash": text,
             "corrupt": number, "problem": text, "start": real, "end": real,
             "start_frame": number, "end_frame": number, "source": text,
             "proof": proof}  # fmt: skip
    if any(row.get("split") for row in rows):
        kinds |= {"split": text}
    if any("shard" in row for row in rows):
        kinds |= {"shard": text, "offset": number}
    table = pa.Table.from_pylist(rows, pa.schema(kinds))
    with atomic_writer(path) as file:
        parquet.write_table(table, file)


def _of_part(facts: Facts, stretch: Stretch | None, max_damaged: float) -> Facts:
    """What is known of a video, with what is to be said of the part that a list asks for."""
    if stretch is None or facts.problem is not None:
        return facts
    length = facts.frames if stretch.unit == "frames" else facts.duration
    if stretch.start >= length:
        has = f"{length} frames" if stretch.unit == "frames" else f"{length:.4g} s"
        return replace(facts, problem=f"it has {has}, and its part is {stretch}")
    if stretch.unit == "frames" and (lost := int(stretch.end) - facts.frames) > 0:
        facts = replace(facts, corrupt=facts.corrupt + lost)
        if lost > max_damaged * (stretch.end - stretch.start):
            return replace(facts, problem=f"it has {length} frames, and its part is {stretch}")
    return facts


def _part_columns(stretch: Stretch | None) -> dict[str, float | None]:
    """The columns of the index for a part, in seconds or in frames."""
    columns: dict[str, float | None] = dict.fromkeys((*SPAN_COLUMNS, *FRAME_COLUMNS))
    if stretch is not None:
        names, kind = (FRAME_COLUMNS, int) if stretch.unit == "frames" else (SPAN_COLUMNS, float)
        columns |= dict(zip(names, map(kind, stretch[:2]), strict=True))
    return columns


def _safe_stem(name: str) -> str:
    """A name without suffix that stays below the folder it is put in; dots would end the key of a
    WebDataset."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return PurePosixPath(*parts).with_suffix("").as_posix().replace(".", "_")


def _loose(folder: Path, row: dict[str, Any]) -> Path:
    return folder / CLIPS_FOLDER / row["target"]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whose it was and when it was made: the same clips give the same shard."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
