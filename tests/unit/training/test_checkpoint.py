"""Checkpoints: whole or not there, verified, the last two kept, memory by parameter name."""

import copy
import resource
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from vistill.files import atomic_writer, write_atomic
from vistill.training.checkpoint import (
    checkpoints,
    load_newest,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from vistill.training.errors import TrainingError


@contextmanager
def full_disk(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_keeps_the_last_two(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000100.pt", "step-00000010.pt"]
    assert load_newest(tmp_path) == {"step": 100}


def test_nothing_there(tmp_path):
    assert load_newest(tmp_path) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "garbage", "pickle"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, damage):
    save_checkpoint(tmp_path, 1, {"a": torch.zeros(10)})
    newest = save_checkpoint(tmp_path, 2, {"a": torch.ones(10)})
    data = bytearray(newest.read_bytes())
    at = data.find(torch.ones(10).numpy().tobytes())
    if damage == "flipped":
        data[at + 3] ^= 1
    changed = {
        "truncated": data[: len(data) // 2],
        "flipped": data,
        "empty": b"",
        "garbage": b"\x93" * 500,
        "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    }[damage]
    newest.write_bytes(changed)
    with pytest.warns(UserWarning, match=r"step-00000002\.pt is damaged"):
        assert torch.equal(load_newest(tmp_path)["a"], torch.zeros(10))


def test_all_damaged(tmp_path):
    save_checkpoint(tmp_path, 1, {}).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(TrainingError, match="every checkpoint"),
    ):
        load_newest(tmp_path)


def test_full_disk_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1})
    with (
        full_disk(50_000),
        pytest.raises(TrainingError, match=r"too large.*00000001\.pt is intact"),
    ):
        save_checkpoint(tmp_path, 2, {"a": torch.zeros(100_000)})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert load_newest(tmp_path) == {"step": 1}


def test_a_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with atomic_writer(path) as file:
            file.write(b"new")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with full_disk(1000), pytest.raises(OSError, match="too large") as caught:
        write_atomic(path, bytes(2000))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"


def test_optimizer_memory_follows_names_not_positions():
    def trained(order):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        parameters = list(module.parameters())
        optimizer = torch.optim.AdamW([parameters[i] for i in order], lr=0.1)
        return module, optimizer

    def steps(module, optimizer, count):
        for _ in range(count):
            module(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    module, optimizer = trained([0, 1, 2, 3])
    steps(module, optimizer, 2)
    memory = copy.deepcopy(optimizer_state(optimizer, module))
    assert memory["1.weight"]["exp_avg"].shape == (1, 3)
    other, resumed = trained([3, 1, 2, 0])
    other.load_state_dict(module.state_dict())
    load_optimizer_state(resumed, other, memory)
    steps(module, optimizer, 2)
    steps(other, resumed, 2)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
