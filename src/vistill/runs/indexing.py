"""An index of a folder of pictures or clips: what is new or changed is embedded, the rest kept."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vistill.data.broken import BrokenImage
from vistill.data.parts import PartSource
from vistill.data.source import Source, Stretch
from vistill.errors import UserError
from vistill.files import PARTIAL
from vistill.locking import LOCK, locked
from vistill.runs.embedding import Embedder
from vistill.runs.inference import counted, left_out
from vistill.runs.results import say
from vistill.search.index_folder import (
    TOLD,
    EntriesList,
    Index,
    MadeWith,
    Told,
    read_index,
    rows_of,
    write_index,
)

if TYPE_CHECKING:
    from vistill.evaluation.rows import Rows

_UNFINISHED = "unfinished"
_ASKED = 1000
_SHORTEST = 0.1


@dataclass(frozen=True)
class IndexResult:
    """What came of a folder.

    Attributes:
        out: the index.
        files: of it.
        rows: embeddings, of which a file that was cut into spans has several.
        noun: what a sample is.
        new, changed, deleted, kept: files, compared with the index that was there.
        broken: names of what cannot be read, and why.
    """

    out: Path
    files: int
    rows: int
    noun: str
    new: int
    changed: int
    deleted: int
    kept: int
    broken: Mapping[str, str]

    def __str__(self) -> str:
        spans = f" in {self.rows} spans" if self.rows != self.files else ""
        told = f"{self.new} new, {self.changed} changed, {self.deleted} deleted, {self.kept} kept"
        first = f"{counted(self.files, self.noun)}{spans}: {self.out} ({told})"
        return "\n".join([first, *left_out(self.broken, self.noun)])


def window_of(window: float | None, stride: float | None) -> tuple[float, float] | None:
    """Seconds of a span and from one to the next.

    Raises:
        UserError: they make no sense.
    """
    if window is None:
        if stride is not None:
            raise UserError(f"--stride {stride:g} goes with --window SECONDS")
        return None
    stride = window if stride is None else stride
    for name, value in (("window", window), ("stride", stride)):
        if not _SHORTEST <= value < float("inf"):
            raise UserError(f"--{name} must be {_SHORTEST:g} seconds or more, not {value:g}")
    if stride > window:
        raise UserError(f"--stride {stride:g} is longer than --window {window:g} and leaves gaps")
    return window, stride


def build_index(
    embedder: Embedder, data: str, out: Path, window: tuple[float, float] | None
) -> IndexResult:
    """Make the index of `data` in the folder `out`, or bring it up to date.

    Args:
        embedder: the model.
        data: pictures or clips.
        out: made if it is missing.
        window: seconds of the spans that clips are cut into, and from one to the next; None: they
            are embedded whole.

    Raises:
        UserError: `out` is no index, or one of another model or folder; nothing can be read.
    """
    job = embedder.job
    _require_own(out)
    before = read_index(out) if (out / TOLD).is_file() else None
    if before is not None:
        _require_same_data(before, data)
    try:
        source = job.open(data)
    except UserError as error:
        raise UserError(str(error).replace("data.frames", "frames")) from error
    if window is not None and source.media.noun != "clip":
        raise UserError(f"--window cuts clips, and '{data}' holds {source.media.noun}s")
    if window is not None and any(source.span(i) is not None for i in range(len(source))):
        raise UserError(f"--window cuts whole clips, and '{data}' names parts of them already")
    told = Told(
        model=lasting(job.reference),
        made_with=MadeWith(*job.made_with()),
        data=os.path.abspath(data),
        root=job.config.root and os.path.abspath(job.config.root),
        media="picture" if source.media.noun == "picture" else "clip",
        base=_base(source),
        window=window,
        text=embedder.read is not None,
    )
    if before is not None:
        _require_same_model(before, told)
    world = job.world
    try:
        with locked(out if world.main else None):
            plan, broken = _update(embedder, source, before, told, out)
            index = read_index(out)
            world.gather(None)
    except UserError:
        if before is None and world.main:
            with suppress(OSError):  # there is more in it
                out.rmdir()
        raise
    return IndexResult(
        out,
        len(set(index.entries.files)),
        len(index.entries),
        source.media.noun,
        *_new_and_changed(plan, index),
        plan.deleted,
        len(plan.kept),
        broken,
    )


def _update(
    embedder: Embedder, source: Source, before: Index | None, told: Told, out: Path
) -> "tuple[_Plan, dict[str, str]]":
    """Embed what is new or changed and write the index; what was to be done, and what is broken."""
    job, window, world = embedder.job, told.window, embedder.job.world
    plan = _Plan(source, before)
    parts, broken = world.once(lambda: _cut(source, plan.todo, window))
    entries, kept, fresh = EntriesList(), list[int](), list[int]()

    def finish(rows: "Rows | None") -> None:
        made = {} if rows is None else _by_sample(parts, rows)
        for sample in plan.samples:
            for row in plan.kept.get(sample, ()):
                assert before is not None
                entries.add(file_name(source, sample), before.entries.span(row), plan.stamp(sample))
                kept.append(row)
                fresh.append(-1)
            for position, span in made.get(sample, ()):
                entries.add(file_name(source, sample), span, plan.stamp(sample))
                kept.append(-1)
                fresh.append(position)
        if not kept:
            raise UserError(
                f"none of the {len(plan.samples)} {source.media.noun}s of {source.name} can be "
                f"read" + (f"; {out} is left as it was" if before is not None else "")
            )
        same = before is not None and before.told == told and len(before.entries) == len(kept)
        if max(fresh) >= 0 or not same:
            values = np.empty((0, job.width)) if rows is None else rows.values
            blocks = rows_of(before, np.array(kept), values, np.array(fresh))
            write_index(out, told, entries.packed(), blocks, job.width)

    if parts:
        samples = np.array([sample for sample, _ in parts])
        stamps = plan.stamps[samples]
        chosen = PartSource(source, samples, [span for _, span in parts], stamps)
        rows = job.fill(
            chosen, out / _UNFINISHED, finish, needed=False, in_parts=window is not None
        )
        broken |= rows.broken
    else:
        world.once(lambda: finish(None))
    return plan, broken


class _Plan:
    """What is to be done, by the names and stamps of the samples.

    Attributes:
        source: of the samples.
        samples: positions in it; of one that is listed twice the first.
        stamps: of all of them.
        kept: position in the source → rows of the index before.
        todo: positions of those that are new or changed.
        new: those of them that are new.
        deleted: files of the index before that are gone.
    """

    def __init__(self, source: Source, before: Index | None) -> None:
        self.source, self.stamps = source, source.stamps()
        there: dict[str, list[int]] = {}
        if before is not None:
            cut = before.told.window is not None
            for row in range(len(before.entries)):
                name = before.entries.files[row]
                span = None if cut else before.entries.span(row)
                there.setdefault(name if span is None else f"{name} ({span})", []).append(row)
        seen: dict[str, int] = {}
        for i in range(len(source)):
            seen.setdefault(source.sample_name(i), i)
        self.samples = list(seen.values())
        self.kept: dict[int, list[int]] = {}
        self.todo: list[int] = []
        self.new: set[int] = set()
        for name, i in seen.items():
            rows = there.get(name)
            if rows is not None and before is not None:
                if (before.entries.stamps[rows[0]] == self.stamps[i]).all():
                    self.kept[i] = rows
                    continue
            else:
                self.new.add(i)
            self.todo.append(i)
        self.deleted = len(there.keys() - seen.keys())

    def stamp(self, sample: int) -> tuple[int, int]:
        """Of a sample."""
        first, second = self.stamps[sample].tolist()
        return first, second


def _new_and_changed(plan: _Plan, index: Index) -> tuple[int, int]:
    """How many of what was to be done could be read."""
    there = set(index.entries.files)
    done = [i for i in plan.todo if file_name(plan.source, i) in there]
    return len(plan.new.intersection(done)), len(set(done) - plan.new)


def file_name(source: Source, sample: int) -> str:
    """The name of a sample without the part that it is."""
    name, span = source.sample_name(sample), source.span(sample)
    return name if span is None else name.removesuffix(f" ({span})")


def _cut(
    source: Source, samples: list[int], window: tuple[float, float] | None
) -> tuple[list[tuple[int, Stretch | None]], dict[str, str]]:
    """Every sample once, or with each of its spans; and those that cannot be read."""
    if window is None:
        return [(sample, None) for sample in samples], {}
    from vistill.data.video.windows import windows_of

    parts: list[tuple[int, Stretch | None]] = []
    broken: dict[str, str] = {}
    for done, sample in enumerate(samples, start=1):
        try:
            parts += [(sample, span) for span in windows_of(source, sample, *window)]
        except BrokenImage as error:
            broken[source.sample_name(sample)] = str(error)
        if done % _ASKED == 0:
            say(f"looked up the lengths of {done} of {len(samples)} clips")
    return parts, broken


def _by_sample(
    parts: list[tuple[int, Stretch | None]], rows: "Rows"
) -> dict[int, list[tuple[int, Stretch | None]]]:
    """Sample → position and span of its rows."""
    made: dict[int, list[tuple[int, Stretch | None]]] = {}
    for position in rows.ids.tolist():
        sample, span = parts[position]
        made.setdefault(sample, []).append((position, span))
    return made


def _require_own(out: Path) -> None:
    """Raise a UserError for a folder with other files than an index, or without a way to it."""
    if out.is_file():
        raise UserError(f"{out} is a file; name a folder for the index")
    if not out.parent.absolute().is_dir():
        raise UserError(f"folder {out.parent} does not exist")
    if out.is_dir() and not (out / TOLD).is_file():
        ours = (_UNFINISHED, LOCK, PARTIAL, "embeddings-", "entries-")
        strange = next((f.name for f in out.iterdir() if not f.name.startswith(ours)), None)
        if strange is not None:
            raise UserError(f"{out} holds other files ({strange}); name a new folder for the index")


def _require_same_data(before: Index, data: str) -> None:
    there, now = before.told.data, os.path.abspath(data)
    if there != now and os.path.exists(there):  # else it was moved
        raise UserError(
            f"{before.folder} is an index of {there}, not of {now}; name another folder for it"
        )


def _require_same_model(before: Index, told: Told) -> None:
    old, new = before.told, told
    settings = {"window": old.window, "text": old.text, **old.made_with.inputs}
    wanted = {"window": new.window, "text": new.text, **new.made_with.inputs}
    differs = next((key for key, value in wanted.items() if value != settings.get(key)), None)
    # Another size or length changes the position table too, and so the hash of the weights.
    same = old.made_with.weights == new.made_with.weights
    if not same and (differs is None or old.model != new.model):
        raise UserError(
            f"{before.folder} was made with {old.model}, and {new.model} has other weights; take "
            "that model, or name another folder"
        )
    if differs is not None:
        raise UserError(
            f"{before.folder} was made with {differs} {settings.get(differs)}, not "
            f"{wanted[differs]}; give the same settings, or name another folder"
        )


def _base(source: Source) -> str | None:
    """The folder at which the names of the files start; None where they are no files."""
    place, name = source.place(0), file_name(source, 0)
    if not isinstance(place, str):
        return None
    if name == ".":
        return place
    return os.path.normpath(place.removesuffix(name)) if place.endswith(name) else None


def lasting(reference: str) -> str:
    """A reference that means the same in another working folder."""
    for kind in ("run:", "file:", "hf/"):
        if reference.startswith(kind):
            path, comma, rest = reference.removeprefix(kind).partition(",")
            if os.path.exists(os.path.expanduser(path)):
                return f"{kind}{os.path.abspath(os.path.expanduser(path))}{comma}{rest}"
            return reference
    name, colon, file = reference.partition(":")
    if reference.startswith("open_clip/") and os.path.isfile(file):
        return f"{name}{colon}{os.path.abspath(file)}"
    return f"{os.path.abspath(name)}{colon}{file}" if name.endswith(".py") else reference
