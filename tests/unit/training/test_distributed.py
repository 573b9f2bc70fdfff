"""Two ranks under DDP and FSDP2 do what one rank does, and runs move between rank counts."""

import json
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_run
import torch
from torch import nn

from vistill.errors import UserError
from vistill.training.distributed import World, connect

OPTIONS = ["--dropout", "0", "--samples", "24", "--micro", "2", "--sgd"]


def train(out, ranks, *options):
    """One session of `tiny_run.py`; ranks are forks of this process, which need not import torch
    again."""
    if ranks == 1:
        return session([out, *OPTIONS, *options], {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return session([out, *OPTIONS, *options], place, ranks)


def session(words, place, ranks=1):
    said = Path(tempfile.mkdtemp(dir=Path(words[0]).parent))
    pids = []
    for rank in range(ranks):
        known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks} if ranks > 1 else {}
        pids.append(os.fork())
        if not pids[-1]:
            code = 70
            try:
                torch.set_num_threads(1)  # those of the parent are not there
                sys.stdout = sys.stderr = (said / str(rank)).open("w", buffering=1)
                os.environ |= place | {name: str(value) for name, value in known.items()}
                sys.argv = ["tiny_run.py", *map(str, words)]
                code = tiny_run.main()
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    text = "".join((said / str(rank)).read_text() for rank in range(ranks))
    return SimpleNamespace(returncode=max(codes, key=abs), stderr=text)


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
    assert done.returncode == 1, done.stderr
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
    from vistill.training.distributed import distribute

    method = tiny_run.TinyMethod()
    world = World(0, 1, torch.device("cpu"))
    strategy = distribute(method, world, "fsdp2", compiled=False)
    assert strategy.called is strategy.module is method
    assert isinstance(strategy.module, nn.Module)
