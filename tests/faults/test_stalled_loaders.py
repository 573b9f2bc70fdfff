"""Loader processes that hang, die or fail: told with the file's name, and nobody waits for ever."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from processes import alive
from safetensors.torch import load_file
from tiny_loader import Numbers, Request

import vistill
from vistill.data import loader
from vistill.data.broken import BrokenImage
from vistill.data.folder import read_file
from vistill.data.loader import Loader
from vistill.data.video.device import Shipment
from vistill.data.video.inspect import inspect
from vistill.data.video.reader import BrokenVideo, VideoReader
from vistill.errors import Failure
from vistill.stopping import Interrupted, StopSignals
from vistill.training.errors import TrainingError

CELLS = Path(__file__).parents[1] / "data" / "cells" / "train"
SETTINGS = [
    "student.model=vit",
    "student.embed_dim=24",
    "student.depth=1",
    "student.num_heads=2",
    "student.patch_size=8",
    "method.decoder.embed_dim=16",
    "method.decoder.depth=1",
    "method.decoder.num_heads=2",
    "data.image_size=32",
    "data.held_out=0",
    "train.global_batch_size=8",
    "train.micro_batch_size=4",
    "train.device=cpu",
    "train.epochs=6",
    "train.loggers=[]",
    "optim.warmup_epochs=1",
]

REQUESTS = [Request(0, np.arange(4 * n, 4 * n + 4)) for n in range(6)]


def numbers(answers: Any) -> list[int]:
    return [number for answer in answers for number in answer["numbers"].tolist()]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_restarts_and_the_end_of_processes(workers):
    loader = Loader(Numbers(), workers)
    assert numbers(loader.answers(REQUESTS)) == list(range(24))
    pids = loader.pids
    assert len(pids) == workers
    early = loader.answers(REQUESTS)
    next(early)
    assert numbers(loader.answers(REQUESTS[3:])) == list(range(12, 24))
    early.close()
    assert loader.pids == pids
    loader.close()
    assert not any(map(alive, pids))
    assert numbers(loader.answers(REQUESTS[:1])) == [0, 1, 2, 3]
    pids = loader.pids
    del loader, early
    patience = time.monotonic() + 300  # the thread aside may hold it a moment longer
    while any(map(alive, pids)) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not any(map(alive, pids))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_is_never_read_is_named_after_the_timeout(workers):
    loader = Loader(Numbers(hangs_at=13), workers, timeout=1.5)
    found = []
    with pytest.raises(Failure, match=r"sample 13 has not been read within 1\.5 seconds") as told:
        found += numbers(loader.answers(REQUESTS))
    assert "raise data.timeout" in str(told.value)
    assert loader.pids == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_slow_is_not_hung(workers):
    """Together a batch takes longer than the limit, each sample less."""
    loader = Loader(Numbers(pause=0.6), workers, timeout=1.5)
    assert numbers(loader.answers(REQUESTS[:2])) == list(range(8))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_signals_are_heard_while_waiting(workers):
    loader = Loader(Numbers(hangs_at=5, signals=os.getpid()), workers, timeout=1000)
    with StopSignals(), pytest.raises(Interrupted, match="while waiting for sample 5") as told:
        numbers(loader.answers(REQUESTS))
    assert told.value.exit_code == 143


@pytest.mark.parametrize(
    ("signum", "text"),
    [
        (signal.SIGKILL, r"killed at sample 6 \(SIGKILL\), which usually means that memory ran"),
        (signal.SIGSEGV, r"crashed at sample 6 \(SIGSEGV\): a decoder does not survive that file"),
    ],
)
def test_a_process_that_dies_is_told_with_its_file(signum, text):
    loader = Loader(Numbers(dies_at=6, signum=signum), 2)
    with pytest.raises(Failure, match=text):
        numbers(loader.answers(REQUESTS))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_back_as_it_was(workers):
    loader = Loader(Numbers(fails_at=9), workers)
    with pytest.raises(ZeroDivisionError, match="at 9") as told:
        numbers(loader.answers(REQUESTS))
    if workers:
        assert "tiny_loader.py" in told.value.__notes__[0]  # where it was raised
    loader.close()


SCRIPT = """
import numpy as np
from tiny_loader import Numbers, Request
from vistill.data.loader import Loader
loader = Loader(Numbers(heavy=4_000_000), 2)
requests = [Request(0, np.arange(n)) for n in range(1, 9)]
print(sum(int(answer["heavy"].sum()) for answer in loader.answers(requests)))
"""


@pytest.mark.slow
def test_a_small_dev_shm_bounds_nothing():
    inside = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -c '{SCRIPT}'"
    command = ["unshare", "--mount", "sh", "-c", inside]
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 4_000_000 * sum(range(1, 9))


def test_a_named_pipe_is_no_picture_and_no_video(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BrokenVideo, match="is no regular file"):
        VideoReader(str(tmp_path / "pipe.mp4"))
    assert inspect(str(tmp_path / "pipe.mp4")).problem == "is no regular file"
    with pytest.raises(BrokenImage, match="is no regular file"):
        read_file(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.ENOTCONN])
def test_a_fault_of_the_machine_is_no_broken_picture(tmp_path, monkeypatch, number):
    def fails(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(Failure, match=rf"a\.mp4' cannot be read: {os.strerror(number)}, which"):
        read_file(str(tmp_path / "a.mp4"))
    monkeypatch.undo()
    monkeypatch.setattr("av.open", lambda *_, **__: raise_av(number))
    with pytest.raises(Failure, match=rf"a\.mp4' cannot be read: {os.strerror(number)}, which"):
        VideoReader(str(tmp_path / "a.mp4"))


def raise_av(number: int) -> None:
    raise av.error.FFmpegError(number, os.strerror(number), "a.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_whose_disk_dies_is_saved_and_continues(tmp_path, monkeypatch, workers):
    def train(out: Path) -> Any:
        return vistill.pretrain(
            "mae",
            data=CELLS,
            out=out,
            overrides=[*SETTINGS, f"data.workers={workers}", "data.timeout=2"],
        )

    whole = train(tmp_path / "whole")
    reads = 0

    def dies(path: str) -> bytes:
        nonlocal reads
        reads += 1
        if reads > 60:
            time.sleep(1000)
        return read_file(path)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("vistill.data.folder.read_file", dies)
        with pytest.raises(TrainingError) as told:
            train(out)
    assert re.match(r"\w+/\d+\.jpg has not been read within 2 seconds", str(told.value))
    assert f"; saved in {out}, and the same command continues" in str(told.value)
    assert list((out / "checkpoints").glob("step-*.pt"))
    assert train(out).terms == pytest.approx(whole.terms)
    ours, theirs = (load_file(o / "export/last/model.safetensors") for o in (out, whole.out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_tensor_of_an_answer_is_pinned_where_there_is_a_gpu(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t) or t)
    shipment = Shipment(*(torch.tensor([n]) for n in range(3)))
    answer = {"pixels": torch.zeros(2), "shipment": shipment, "cached": (1, torch.ones(1))}
    found = loader._pinned({**answer, "broken": [("a.jpg", "truncated")], "whole": True})
    assert len(pinned) == 5
    assert isinstance(found["shipment"], Shipment)
    assert found["cached"][0] == 1
    assert found["broken"] == [("a.jpg", "truncated")]
