"""Two ranks under DDP and FSDP2 do what one rank does, and runs move between rank counts."""

import json

import pytest
import tiny_run
import torch
import torch.distributed.device_mesh
import torch.distributed.fsdp
import torch.distributed.tensor
from ranks import session
from torch import nn

from vistill.errors import UserError
from vistill.methods.ranks import OneRank
from vistill.training import distributed
from vistill.training.distributed import Replicated, Sharded, World, connect
from vistill.training.errors import TrainingError
from vistill.training.ranks import ranks_of

STRATEGIES = ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)]
OPTIONS = ["--dropout", "0", "--samples", "24", "--micro", "2", "--sgd"]


def train(out, ranks, *options):
    """One session of `tiny_run.py`."""
    return session([out, *OPTIONS, *options], ranks, tiny_run.main)


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


@pytest.mark.parametrize("strategy", STRATEGIES)
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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loss_over_the_batch_of_two_ranks_equals_that_of_one(tmp_path, strategy):
    one, two = tmp_path / "one", tmp_path / "two"
    # The last micro counts: two samples of each of two ranks are the four of one.
    for out, ranks, options in ((one, 1, ["--micro", "4", "--interleave"]), (two, 2, [])):
        done = train(out, ranks, "--in-batch", "--strategy", strategy, *options)
        assert done.returncode == 0, done.stderr
    first, *_, last = (loss for loss, _ in losses(one).values())
    assert last < 0.9 * first
    assert_same(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_kinds_of_batches_that_reach_other_parameters(tmp_path, strategy):
    one, two = tmp_path / "one", tmp_path / "two"
    # Stopped where the next batch is of the other kind: what learns does not hang on the first.
    for out, ranks in ((one, 1), (two, 2)):
        for options in (["--stop-at-step", "3"], []):
            done = train(out, ranks, "--two-kinds", "--strategy", strategy, *options)
            assert (done.returncode == 0) == (not options), done.stderr
    assert_same(two, one)
    trained = torch.load(two / "export" / "last.pt")
    fresh = tiny_run.TwoKinds().state_dict()
    for name in ("heads.0.weight", "heads.1.weight"):
        assert not torch.equal(trained[name], fresh[name])
    assert torch.equal(trained["student.norm.weight"], fresh["student.norm.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_each_rank_has_for_itself_is_kept(tmp_path, strategy):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ["--queue", "--strategy", strategy]
    done = train(whole, 2, *words)
    assert done.returncode == 0, done.stderr
    done = train(stopped, 2, *words, "--stop-at-step", "5")
    assert "saved in" in done.stderr
    done = train(stopped, 1, *words)
    assert done.returncode == 1
    assert "on each of 2 rank(s): continue it with as many, not with 1" in done.stderr
    done = train(stopped, 2, *words)
    assert done.returncode == 0, done.stderr
    assert losses(stopped) == losses(whole)
    queues = [
        json.loads((out / f"queue-{rank}.json").read_text())
        for out in (whole, stopped)
        for rank in range(2)
    ]
    assert queues[:2] == queues[2:]
    assert queues[0] != queues[1]


def test_a_single_number_is_not_sharded(tmp_path):
    done = train(tmp_path / "out", 2, "--in-batch", "--scalar", "--strategy", "fsdp2")
    assert done.returncode == 1
    assert "cannot share out the single number 'scale'" in done.stderr


def gathers():
    """Row r of rank r is told by every rank s with the factor 10 ** s."""
    world = connect("cpu")
    method = tiny_run.TinyMethod()
    assert (method.ranks.rank, method.ranks.size) == (0, 1)
    with ranks_of(method, world):
        ranks = method.ranks
        assert (ranks.rank, ranks.size) == (world.rank, 2)
        for grad, back in (("none", None), ("local", [1.0, 10.0]), ("full", [11.0, 11.0])):
            rows = torch.full((2, 3), float(world.rank), requires_grad=True)
            found = ranks.gather(rows.mT.contiguous().mT, grad)
            assert found[:, 0].tolist() == [0, 0, 1, 1]
            assert found.requires_grad == (grad != "none")
            if back is not None:
                (found.sum() * 10**world.rank).backward()
                assert rows.grad.tolist() == [[back[world.rank]] * 3] * 2
            with torch.no_grad():
                assert not ranks.gather(rows, grad).requires_grad
        for dtype in (torch.bool, torch.int64, torch.uint8, torch.bfloat16, torch.float16):
            mine = torch.tensor([0, 1, 1], dtype=dtype) * world.rank
            found = ranks.gather(mine.to(dtype), "full")
            assert found.dtype == dtype
            assert found.tolist() == [0, 0, 0, 0, 1, 1]
        with ranks_of(method, None):
            assert method.ranks.size == 1
        assert method.ranks is ranks
    assert method.ranks.size == 1
    return 0


def test_gathered_rows_and_what_comes_back_of_their_gradient(tmp_path):
    done = session([tmp_path / "out"], 2, gathers)
    assert done.returncode == 0, done.stderr
    alone = OneRank()
    rows = torch.ones(2, 3, requires_grad=True)
    assert not alone.gather(rows).requires_grad
    assert alone.gather(rows, "full") is alone.gather(rows, "local") is rows


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


def test_the_compiler_sees_ddp_and_not_ddp_the_compiler(monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module, **options):
            super().__init__()
            self.module = module
            self.no_sync = lambda: "no sync"

    monkeypatch.setattr(distributed, "DistributedDataParallel", Wrapper)
    monkeypatch.setattr(torch, "compile", lambda module: nn.Sequential(module))
    method = tiny_run.TinyMethod()
    found = Replicated(method, World(0, 2, torch.device("cpu")), compiled=True)
    assert isinstance(found.called, nn.Sequential)
    assert isinstance(found.called[0], Wrapper)
    assert found.called[0].module is found.module is method
    assert found.accumulating(last=False) == "no sync"


@pytest.mark.parametrize(
    ("device", "dtype", "travels", "sums"),
    [
        ("cuda", torch.bfloat16, torch.bfloat16, torch.float32),
        ("cuda", None, None, None),
        ("cpu", torch.bfloat16, None, None),
    ],
)
def test_blocks_travel_in_the_autocast_type_of_a_gpu(device, dtype, travels, sums, monkeypatch):
    policies = []
    monkeypatch.setattr(torch.distributed.device_mesh, "init_device_mesh", lambda *_: None)
    monkeypatch.setattr(
        torch.distributed.fsdp,
        "fully_shard",
        lambda _, mesh, mp_policy=None: policies.append(mp_policy),
    )
    method = tiny_run.TinyMethod()
    world = World(0, 2, torch.device(device))
    Sharded(method, world, compiled=False, dtype=dtype)
    *blocks, whole = policies
    assert whole is None  # positions and heads stay in fp32, and so do the tokens between blocks
    assert len(blocks) == len(method.student.blocks)
    for policy in blocks:
        assert (policy.param_dtype, policy.reduce_dtype) == (travels, sums)
        assert not policy.cast_forward_inputs


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_dies_ends_the_others_in_a_sentence(one_rank, tmp_path, strategy):
    out = tmp_path / "run"
    words = ["--strategy", strategy, "--cadence", "3"]
    done = train(out, 2, *words, "--die-in", "replace", "--die-at-step", "6")
    assert done.returncode
    assert "rank 1 of 2 has lost another one" in done.stderr
    assert "the same command continues from the last checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert train(out, 1, "--cadence", "3").returncode == 0
    assert_same(out, one_rank)


def test_other_faults_stay_what_they_are():
    one, two = (World(0, size, torch.device("cpu")) for size in (1, 2))
    with pytest.raises(RuntimeError, match="shapes"), distributed.missed(two, "x"):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="gloo"), distributed.missed(one, "x"):
        raise RuntimeError("gloo is gone")
    with pytest.raises(TrainingError, match="has lost another"), distributed.missed(two, "x"):
        raise torch.distributed.DistBackendError("NCCL error")
