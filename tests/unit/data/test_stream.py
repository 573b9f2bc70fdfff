"""The stream is a function of seed and step: not of workers, ranks, micro-batches or resuming."""

import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistill.batch import Batch
from vistill.data import (
    BrokenFiles,
    EvalTransform,
    TrainStream,
    TrainTransform,
    default_workers,
    eval_batches,
    open_source,
)
from vistill.data.stream import StepRequests
from vistill.errors import Failure, UserError

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"


def stream(**options: object) -> TrainStream:
    settings: dict = {"seed": 3, "global_batch_size": 6, "micro_batch_size": 3, "workers": 0}
    transform = TrainTransform(16, rand_augment="rand-m9-mstd0.5-inc1")
    source = open_source(str(CELLS))
    indices = np.arange(1, 27)
    return TrainStream(source, indices, transform, max_broken=0.0, **(settings | options))


def whole(batches: list[Batch]) -> dict[str, torch.Tensor]:
    names = ("pixels", "seeds", "ids", "labels")
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_batches() -> None:
    data = stream()
    assert data.steps_per_epoch == 4  # 26 pictures, 6 a step
    assert data.accumulation == 2
    batches = list(data.iterate(0, 8))
    assert len(batches) == 16
    assert batches[0].pixels.shape == (3, 3, 16, 16)
    assert batches[0].pixels.dtype == torch.uint8
    assert batches[0].pixels.is_contiguous(memory_format=torch.channels_last)
    labels = data._reader.source.labels
    assert labels is not None
    for batch in batches:
        assert batch.labels is not None
        assert batch.labels.tolist() == labels[batch.ids].tolist()
    for epoch in (batches[:8], batches[8:]):
        ids = whole(epoch)["ids"].tolist()
        assert len(set(ids)) == 24
        assert 0 not in ids
    assert whole(batches[:8])["ids"].tolist() != whole(batches[8:])["ids"].tolist()
    assert len(set(whole(batches)["seeds"].tolist())) == 48


def test_workers_and_resuming_change_nothing() -> None:
    expected = list(stream().iterate(0, 10))
    for workers in (1, 3):
        data = stream(workers=workers)
        assert_same(whole(list(data.iterate(0, 10))), whole(expected))
        pids = data._loader.pids
        assert len(pids) == workers
        assert_same(whole(list(data.iterate(7, 10))), whole(expected[14:]))
        assert data._loader.pids == pids
        data.close()


def test_leaving_early_and_starting_again() -> None:
    data = stream(workers=2)
    next(data.iterate(0, 100))
    assert_same(whole(list(data.iterate(5, 6))), whole(list(stream().iterate(5, 6))))


def test_ranks_share_the_global_batch() -> None:
    alone = list(stream(micro_batch_size=6).iterate(2, 5))
    ranks = [list(stream(rank=r, world_size=2).iterate(2, 5)) for r in range(2)]
    for step, batch in enumerate(alone):
        assert_same(whole([rank[step] for rank in ranks]), whole([batch]))


def test_another_seed_is_another_run() -> None:
    a, b = (whole(list(stream(seed=s).iterate(0, 1))) for s in (1, 2))
    assert not torch.equal(a["ids"], b["ids"])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(workers=1).iterate(0, 2))
    list(stream().iterate(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 30}, "=30 is larger than the number of training pictures, 26"),
        ({"micro_batch_size": 4}, "=6 cannot be shared by 1 rank"),
        ({"world_size": 4}, "=6 cannot be shared by 4 rank"),
    ],
)
def test_sizes_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(**options)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    micro=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_requests_partition_every_epoch(
    n: int, micro: int, accumulation: int, world: int, seed: int, data: st.DataObject
) -> None:
    size = micro * accumulation * world
    indices = np.arange(n) * 3 + 1

    def steps(rank: int, world: int, micro: int, start: int, stop: int) -> list[list[int]]:
        requests = StepRequests(
            indices,
            seed=seed,
            global_batch_size=size,
            micro_batch_size=micro,
            rank=rank,
            world_size=world,
        )
        requests.start, requests.stop = start, stop
        parts = [request.samples.tolist() for request in requests]
        k = len(parts) // max(stop - start, 1)
        return [list(chain(*parts[i : i + k])) for i in range(0, len(parts), k)]

    if n < size:
        with pytest.raises(UserError):
            steps(0, world, micro, 0, 1)
        return
    per_epoch = n // size
    stop = 2 * per_epoch + 1
    alone = steps(0, 1, size, 0, stop)
    ranks = [steps(rank, world, micro, 0, stop) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    for epoch in range(2):
        seen = list(chain(*alone[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert len(seen) == len(set(seen)) == per_epoch * size
        assert set(seen) <= set(indices.tolist())
    start = data.draw(st.integers(0, stop - 1))
    assert steps(0, 1, size, start, stop) == alone[start:]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_everything_once_in_order(workers: int) -> None:
    source = open_source(str(CELLS))
    indices = np.array([5, 3, 20, 11, 0])
    batches = list(
        eval_batches(
            source,
            indices,
            EvalTransform(16),
            batch_size=2,
            workers=workers,
            broken=BrokenFiles(5, 0.0),
        )
    )
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert whole(batches)["ids"].tolist() == indices.tolist()


def test_default_workers() -> None:
    assert 1 <= default_workers() <= 8
    assert default_workers(10_000) == 1


def test_a_killed_worker_is_explained() -> None:
    data = stream(workers=1)
    batches = data.iterate(0, 1000)
    next(batches)
    os.kill(data._loader.pids[0], signal.SIGKILL)
    with pytest.raises(Failure, match=r"was killed at \w+/.* \(SIGKILL\).*fewer data.workers"):
        list(batches)


def test_workers_outlive_signals_to_the_group() -> None:
    data = stream(workers=1)
    batches = data.iterate(0, 100)
    next(batches)
    pid = data._loader.pids[0]
    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    subprocess.run(["kill", "-INT", str(pid)], check=True)
    subprocess.run(["kill", "-HUP", str(pid)], check=True)
    assert len(list(batches)) == 199


SCRIPT = """
import numpy as np
from vistill.data import TrainStream, TrainTransform, open_source
source = open_source({cells!r})
data = TrainStream(source, np.arange(27), TrainTransform(16), seed=0, global_batch_size=3,
                   micro_batch_size=3, workers=2, max_broken=0.0)
batches = data.iterate(0, 10**6)
next(batches)
raise ValueError("the end")
"""


@pytest.mark.slow
def test_an_exception_ends_the_process_and_its_workers() -> None:
    command = [sys.executable, "-c", SCRIPT.format(cells=str(CELLS))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 1
    assert result.stderr.endswith("ValueError: the end\n")
