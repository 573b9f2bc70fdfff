"""Two ranks under DDP and FSDP2 do what one rank does, and runs move between rank counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vistill.errors import UserError
from vistill.training.distributed import World, connect

SCRIPT = Path(__file__).parent / "tiny_run.py"
OPTIONS = ["--dropout", "0", "--samples", "24", "--micro", "2", "--sgd"]


def train(out, ranks, *options):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(launcher if ranks > 1 else ()), SCRIPT, out, *OPTIONS, *options]
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    done = train(out, 1)
    assert done.returncode == 0, done.stderr
    return out


def assert_same(out, one):
    ours, theirs = losses(out), losses(one)
    assert list(ours) == list(theirs) == list(range(1, 13))
    for step, expected in theirs.items():
        assert ours[step] == pytest.approx(expected, rel=1e-5)
    a, b = (torch.load(folder / "export" / "last.pt") for folder in (out, one))
    for name in a.keys() - {"seen"}:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one_even_after_moving_between_them(one_rank, tmp_path, strategy):
    out = tmp_path / "run"
    done = train(out, 2, "--strategy", strategy, "--stop-at-step", "5")
    assert done.returncode != 0
    assert "saved in" in done.stderr
    assert max(losses(out)) < 12
    done = train(out, 1, "--stop-at-step", "8")
    assert "saved in" in done.stderr, done.stderr
    done = train(out, 2, "--strategy", strategy)
    assert done.returncode == 0, done.stderr
    assert_same(out, one_rank)


def test_a_fault_on_one_rank_stops_all_with_the_ids_of_all(tmp_path):
    out = tmp_path / "run"
    done = train(out, 2, "--poison", "4")
    assert done.returncode == 1
    assert "not finite at step 5" in done.stderr
    assert len(json.loads((out / "non_finite.json").read_text())["ids"]) == 8


def test_alone():
    world = connect("cpu")
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert world.gather(3) == [3]
    assert world.broadcast("x") == "x"
    assert world.once(lambda: 5) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there():
    with pytest.raises(UserError, match=r"train\.device=cuda"):
        connect("cuda")


def test_one_rank_is_left_unwrapped():
    from tiny_run import TinyMethod

    from vistill.training.distributed import distribute

    method = TinyMethod()
    world = World(0, 1, torch.device("cpu"))
    strategy = distribute(method, world, "fsdp2", compiled=False)
    assert strategy.called is strategy.module is method
    assert isinstance(strategy.module, nn.Module)
