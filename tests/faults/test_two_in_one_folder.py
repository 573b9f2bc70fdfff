"""A run keeps others out of its folder, and survives the loss of its terminal."""

import json
import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest

from vistill.cli import main

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
    "data.workers=0",
    "data.held_out=0",
    "train.global_batch_size=8",
    "train.device=cpu",
    "train.epochs=100000",
    "train.evaluate_every=1000",
    "train.loggers=[]",
]


@pytest.mark.slow
def test_a_run_keeps_others_out_and_survives_the_loss_of_its_terminal(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["pretrain", "mae", "--data", str(CELLS), "--out", str(out), *SETTINGS]
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, and that is inherited
        os.execv(sys.executable, [sys.executable, "-m", "vistill.cli", *words])
    try:
        patience = time.monotonic() + 600
        while not (out / "metrics.jsonl").exists() and time.monotonic() < patience:
            time.sleep(0.05)
        assert main(words) == 2
        told = capsys.readouterr().err
        assert f"{out} is being written by process {child} on this machine since" in told
        assert f"(kill {child})" in told
        assert len(json.loads((out / "environment.json").read_text())) == 1
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)  # the kernel tells the child by SIGHUP, and takes nothing it prints
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert list((out / "checkpoints").glob("step-*.pt"))
    assert not (out / "vistill.lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "cache", "demo", "kept"])
def test_every_folder_that_is_written_is_locked(tmp_path, capsys, kind):
    from vistill.locking import LOCK, FolderLock

    folder = tmp_path / "it"
    folder.mkdir()
    child = os.fork()
    if child == 0:
        FolderLock.acquire(folder)
        time.sleep(100)
    try:
        while not (folder / LOCK).exists() or not (folder / LOCK).read_text():
            time.sleep(0.01)
        if kind == "demo":
            assert main(["demo", "--out", str(folder)]) == 2
            assert f"{folder} is being written by process {child}" in capsys.readouterr().err
        elif kind == "kept":
            from vistill.evaluation.saved_classifier import new_folder

            with (
                pytest.raises(Exception, match=f"is being written by process {child}"),
                new_folder(str(folder)),
            ):
                pass
        elif kind == "chain":
            from vistill.training.distributed import connect
            from vistill.training.run_folder import RunFolder

            with pytest.raises(Exception, match=f"is being written by process {child}"):
                RunFolder.open(folder, fingerprint={}, config="", world=connect("cpu"))
        else:
            from vistill.data.cache import TeacherCache
            from vistill.data.records import Layout

            cache = TeacherCache(folder, Layout((4,), "fp32"), 1, 3)
            with pytest.raises(Exception, match="is damaged"):  # the other has made nothing yet
                cache.open_to_write({})
            assert not cache.writes
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
