"""One row of numbers per sample, written where a killed process and other ranks find them."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from vistill.batch import Batch
from vistill.data import BrokenFiles, Source, eval_batches
from vistill.data.loading import Decoder
from vistill.data.transforms import Transform
from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.stopping import Interrupted, StopSignals
from vistill.training.distributed import World
from vistill.training.progress import duration, tell

ROWS = "rows.npy"
_MADE_FOR, _DONE = "made_for.json", "done.npy"
_COMMIT_SECONDS = 2.0
_TOLD_SECONDS = 15.0


@dataclass(frozen=True)
class Rows:
    """What was computed.

    Attributes:
        values: `[n, D]`, one row per sample of the source, of which those that could not be read
            hold nothing; a memory map.
        ids: positions in the source of those that could be read, in ascending order.
        broken: the others' names and why.
    """

    values: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, " k"]
    broken: dict[str, str]


class RowFile:
    """Rows of all samples of a source in a folder, each with a mark once it is on the disk.

    Args:
        folder: of this computation alone.
        made_for: what makes it this computation; rows of another are thrown away.
        count: samples of the source.
        width: numbers of a row.
    """

    def __init__(self, folder: Path, made_for: dict[str, Any], count: int, width: int) -> None:
        self.folder, self.made_for, self.shape = folder, made_for, (count, width)

    def prepare(self) -> int:
        """Make the files where there are none of this computation; how many rows are there."""
        told = self.folder / _MADE_FOR
        text = json.dumps(self.made_for, indent=2, sort_keys=True) + "\n"
        if not told.is_file() or told.read_text(encoding="utf-8") != text:
            for old in self.folder.glob("*.*"):
                if old.suffix in (".npy", ".json", ".jsonl"):
                    old.unlink()
            open_memmap(self.folder / ROWS, "w+", np.float32, self.shape).flush()
            open_memmap(self.folder / _DONE, "w+", np.uint8, self.shape[:1]).flush()
            write_atomic(told, text)
        return int(np.count_nonzero(np.load(self.folder / _DONE)))

    def open(self, rank: int) -> None:
        """Open the files that `prepare` made."""
        self.values = open_memmap(self.folder / ROWS, "r+")
        self.done = open_memmap(self.folder / _DONE, "r+")
        self._reasons = self.folder / f"broken-{rank}.jsonl"
        self._pending: list[np.ndarray] = []
        self._committed = time.monotonic()

    def left(self, samples: int, rank: int, ranks: int) -> Int[np.ndarray, " k"]:
        """Samples that a rank has to compute: whole batches of `samples`, so that the numbers do
        not depend on how the work was cut."""
        count = self.shape[0]
        starts = np.arange(0, count, samples)
        open_ = [s for s in starts.tolist() if not self.done[s : s + samples].any()]
        mine = [np.arange(s, min(s + samples, count)) for s in open_[rank::ranks]]
        return np.concatenate(mine) if mine else np.empty(0, np.int64)

    def add(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Write rows; their marks follow once they are on the disk."""
        self.values[ids] = values
        self._pending.append(ids)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def note(self, broken: dict[str, str]) -> None:
        """Keep why samples cannot be read."""
        if broken:
            with self._reasons.open("a", encoding="utf-8") as file:
                for name, reason in broken.items():
                    file.write(json.dumps([name, reason]) + "\n")

    def commit(self) -> None:
        """Bring all rows, then their marks, to the disk."""
        if self._pending:
            self.values.flush()
            self.done[np.concatenate(self._pending)] = 1
            self.done.flush()
            self._pending.clear()
        self._committed = time.monotonic()

    def finished(self, source: Source) -> Rows:
        """What all ranks have computed."""
        reasons: dict[str, str] = {}
        for file in sorted(self.folder.glob("broken-*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                name, reason = json.loads(line)
                reasons[name] = reason
        missing = [source.sample_name(i) for i in np.flatnonzero(self.done == 0).tolist()]
        broken = {name: reasons.get(name, "cannot be read") for name in missing}
        return Rows(self.values, np.flatnonzero(self.done), broken)

    def delete(self) -> None:
        """Remove what is not needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


@torch.no_grad()
def fill(
    file: RowFile,
    module: nn.Module,
    compute: Callable[[Batch], Float[Tensor, "v d"]],
    source: Source,
    *,
    view: tuple[Transform, Decoder],
    views: int,
    samples: int,
    workers: int,
    timeout: float,
    world: World,
    what: str,
    needed: bool = True,
) -> Rows:
    """Compute the rows that are not there yet, all ranks together.

    Args:
        file: prepared by rank 0.
        module: moved to the device of `world`, in eval mode.
        compute: one row per view of a batch; a sample's row is the mean over its views, in float64.
        source: of the samples.
        view: what is seen of a sample.
        views: how many of each.
        samples: of a forward pass.
        workers: loader processes.
        timeout: seconds that reading one sample may take.
        world: the ranks.
        what: is computed, for the line that tells progress.
        needed: whether it is an error if no sample can be read.

    Raises:
        UserError: none can, and one is needed.
        Interrupted: a signal; the same command goes on from here.
    """
    file.open(world.rank)
    module.eval().to(world.device)
    broken = BrokenFiles(len(source), max_share=1.0, noun=source.media.noun)
    noted: set[str] = set()
    told = _Told(file, source.media.noun, what) if world.main else None
    transform, decode = view
    batches = eval_batches(
        source,
        file.left(samples, world.rank, world.size),
        transform,
        batch_size=samples,
        workers=workers,
        broken=broken,
        decode=decode,
        timeout=timeout,
    )
    with StopSignals() as stopping:
        for batch in batches:
            found = compute(batch.to(world.device)).double().cpu().numpy()
            new = {k: v for k, v in broken.names.items() if k not in noted}
            file.note(new)
            noted |= new.keys()
            ids = batch.ids.numpy()
            file.add(ids[::views], found.reshape(-1, views, found.shape[1]).mean(axis=1))
            if told is not None:
                told.update()
            if stopping.received is not None:
                file.commit()
                raise Interrupted(
                    f"stopped; what was computed is in {file.folder}, and the same command goes on "
                    "from there",
                    stopping.received,
                )
    file.note({k: v for k, v in broken.names.items() if k not in noted})
    file.commit()
    world.gather(None)
    rows = file.finished(source)
    if needed and not len(rows.ids):
        if world.main:
            file.delete()
        raise UserError(
            f"none of the {len(source)} {source.media.noun}s of {source.name} can be read"
        )
    return rows


class _Told:
    """A line every quarter of a minute: how far all ranks are, how fast, how long still."""

    def __init__(self, file: RowFile, noun: str, what: str) -> None:
        self._file, self._noun, self._what = file, noun, what
        self._first = int(np.count_nonzero(file.done))
        self._start = self._last = time.monotonic()

    def update(self) -> None:
        """Tell, if it is time."""
        now = time.monotonic()
        if now - self._last < _TOLD_SECONDS:
            return
        self._last = now
        done, total = int(np.count_nonzero(self._file.done)), len(self._file.done)
        rate = (done - self._first) / (now - self._start)
        eta = f" · ETA {duration((total - done) / rate)}" if rate else ""
        tell(f"{self._what} {done}/{total} · {rate:.1f} {self._noun}s/s{eta}")


def in_slices(
    rows: Rows, size: int = 4096
) -> Iterator[tuple[np.ndarray, Float[np.ndarray, "k d"]]]:
    """Positions and rows of the readable samples, a few thousand at a time."""
    for start in range(0, len(rows.ids), size):
        ids = rows.ids[start : start + size]
        yield ids, rows.values[ids]


def unfinished(out: Path) -> Path:
    """Where the rows of `out` are as long as it is not whole."""
    return out.with_name(f"{out.name}.unfinished")


def move_into_place(made: Path, out: Path) -> None:
    """Rename a file on the same disk, once its bytes are there."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(made, out)
