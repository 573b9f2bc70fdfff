"""The pass before the first step: kept, resumed bit by bit, shared by ranks."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.methods.base import Method
from vistill.stopping import Interrupted
from vistill.targets.moments import Moments
from vistill.training.distributed import World
from vistill.training.run_folder import RunFolder
from vistill.training.target_fit import FITTED, fit_targets

ALONE = World(0, 1, torch.device("cpu"))
PIXELS = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(0))


class Reader(Method):
    """Fits the moments of the pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())  # type: ignore[arg-type]
        self.found: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> Losses:
        raise NotImplementedError

    def use_fit(self, fitted: dict[str, Tensor]) -> str:
        self.found = dict(fitted)
        return "found"


class Sums(Moments):
    view = "eval"

    def add(self, batch: Batch) -> None:
        super().add(batch.pixels.flatten(1))

    def result(self) -> dict[str, Tensor]:
        return self.state()


def batches(after: int, stop_at: int | None = None) -> Iterator[Batch]:
    for ids in torch.arange(20)[after + 1 :].split(4):
        if stop_at is not None and stop_at in ids:
            os.kill(os.getpid(), signal.SIGTERM)
        yield Batch(pixels=PIXELS[ids], seeds=ids, ids=ids)


def folder(path: Path) -> RunFolder:
    return RunFolder.open(path, fingerprint={}, config="", world=ALONE)


def run(path: Path, source=batches, minutes: float = 10.0) -> Reader:
    method = Reader()
    line = fit_targets(
        method,
        Sums(12),
        source,
        run=folder(path),
        world=ALONE,
        checkpoint_minutes=minutes,
    )
    assert line == "found"
    return method


def test_the_result_is_kept(tmp_path: Path) -> None:
    whole = run(tmp_path / "run").found
    assert int(whole["count"]) == 20
    torch.testing.assert_close(whole["mean"].float(), PIXELS.flatten(1).mean(0))
    saved = load_file(tmp_path / "run" / FITTED)
    again = run(tmp_path / "run", lambda after: pytest.fail("read pictures again")).found
    for name in whole:
        assert torch.equal(whole[name], saved[name])
        assert torch.equal(whole[name], again[name])


def test_a_stopped_pass_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped after 12 pictures") as stopped:
        run(tmp_path / "run", lambda after: batches(after, stop_at=8))
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "run" / FITTED).exists()
    starts: list[int] = []

    def watched(after: int) -> Iterator[Batch]:
        starts.append(after)
        return batches(after)

    resumed = run(tmp_path / "run", watched).found
    assert starts == [11]
    whole = run(tmp_path / "whole").found
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_killed_pass_goes_on_from_its_last_save(tmp_path: Path) -> None:
    def killed(after: int) -> Iterator[Batch]:
        for batch in batches(after):
            if 16 in batch.ids:
                raise MemoryError
            yield batch

    with pytest.raises(MemoryError):
        run(tmp_path / "run", killed, minutes=1e-9)
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(load_file(saved)["last"]) == 15
    resumed, whole = run(tmp_path / "run").found, run(tmp_path / "whole").found
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_picture_counts_once_however_often_the_pass_stops(tmp_path: Path) -> None:
    """Stopped at every batch in turn: a source that gives what was asked for, one by one."""

    def one_batch(after: int) -> Iterator[Batch]:
        return batches(after, stop_at=after + 1)

    for done in (4, 8, 12, 16):
        with pytest.raises(Interrupted, match=f"stopped after {done} pictures"):
            run(tmp_path / "run", one_batch)
    found, whole = run(tmp_path / "run").found, run(tmp_path / "whole").found
    assert int(whole["count"]) == int(found["count"]) == 20
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_counts_once(tmp_path: Path, rank: int) -> None:
    """What the other rank has seen is added to rank 0's own, which is not added again."""
    other = Sums(12)
    other.add(Batch(PIXELS[10:], seeds=torch.arange(10), ids=torch.arange(10)))

    class Pair(World):
        def gather(self, value):
            return [value, other.state()]

        def once(self, work):
            return work()

    def mine(after: int) -> Iterator[Batch]:
        for batch in batches(after):
            if batch.ids[0] < 8:
                yield batch
        yield Batch(PIXELS[8:10], seeds=torch.arange(8, 10), ids=torch.arange(8, 10))

    method = Reader()
    world = Pair(rank, 2, torch.device("cpu"))
    fit_targets(
        method, Sums(12), mine, run=folder(tmp_path / "run"), world=world, checkpoint_minutes=9
    )
    assert int(method.found["count"]) == 20
    torch.testing.assert_close(method.found["mean"].float(), PIXELS.flatten(1).mean(0))


def test_methods_fit_nothing_by_default() -> None:
    assert Reader().target_fit(5) is None
