"""What one process sends, another receives: values, kinds and strides, with or without memfd."""

import errno
import multiprocessing
import os
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from vistill.data.shipping import Parcel, receive


class Pair(NamedTuple):
    left: torch.Tensor
    right: np.ndarray


def answers() -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    big = torch.randint(0, 256, (5, 7, 9, 3), dtype=torch.uint8, generator=rng)
    return {
        "channels last": big.movedim(-1, 1),
        "turned": big.permute(2, 0, 3, 1),
        "holes": torch.rand(6, 8, generator=rng)[::2, 1:5],
        "expanded": torch.rand(1, 4, generator=rng).expand(3, 4),
        "one": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4, dtype=torch.int32),
        "bf16": torch.rand(3, 5, generator=rng).bfloat16(),
        "truth": torch.tensor([True, False, True]),
        "nested": (2, Pair(torch.arange(6).view(2, 3).T, np.array([True, False]))),
        "text": [("a.jpg", "truncated")],
    }


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple | list):
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert np.array_equal(a, b)


@pytest.mark.parametrize("memfd", [True, False])
def test_everything_arrives_as_it_was(monkeypatch, memfd):
    if not memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    here, there = multiprocessing.Pipe()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for answer in (answers(), {}, [1, None]):
        Parcel(answer).send(there)
        found = receive(here)
        same(found, answer)
        if answer and isinstance(answer, dict):
            assert found["channels last"].stride() == answer["channels last"].stride()
            assert found["turned"].stride() == answer["turned"].stride()
            found["channels last"].add_(1)  # it can be written to
    del found
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_refused_memory_files_are_done_without(monkeypatch):
    def refused(_: str) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    here, there = multiprocessing.Pipe()
    Parcel(answers()).send(there)
    same(receive(here), answers())
