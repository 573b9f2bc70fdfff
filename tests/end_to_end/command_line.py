"""Runs the real command line on a few real pictures with models of two small blocks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import timm  # noqa: F401  for all forks, as those of timm's models load it
from forked import Forked

from vistill.cli import main

CELLS = Path(__file__).parents[1] / "data" / "cells"
SIZES = [
    "student.embed_dim=48",
    "student.depth=2",
    "student.num_heads=3",
    "student.patch_size=8",
    "data.image_size=32",
    "data.workers=0",
    "data.held_out=0.2",
    "train.global_batch_size=8",
    "train.device=cpu",
    "optim.warmup_epochs=0",
]
MAE = [
    "method.decoder.embed_dim=32",
    "method.decoder.depth=1",
    "method.decoder.num_heads=2",
    "student.model=vit",
    *SIZES,
]


def instead(usual: list[str], *words: str) -> list[str]:
    """Settings with some that stand in place of the usual ones."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in usual if word.partition("=")[0] not in keys), *words]


def pretrain_mae(out: Path, *sizes: str) -> Path:
    """A finished MAE run of one epoch, of other sizes than the usual ones."""
    words = [*instead(SIZES, *sizes), "student.model=vit", "train.epochs=1", "train.loggers=[]"]
    assert main(["pretrain", "mae", "--data", str(CELLS / "train"), "--out", str(out), *words]) == 0
    return out


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "vistill.cli", *map(str, words)]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(*words: object, cwd: Path | None = None) -> Forked:
    """Begin `vistill WORDS...` in a fork of this process."""

    def work() -> int:
        os.environ |= environment()
        sys.argv = ["vistill", *map(str, words)]
        return main([*map(str, words)])

    return Forked(work, cwd)


def run(
    *words: object, expect: int = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `vistill WORDS...` in a fork of this process and check its exit code.

    `run_afresh` starts an interpreter, as a shell does.
    """
    process = start(*words, cwd=cwd)
    said = process.communicate()
    assert process.returncode is not None
    return _checked(subprocess.CompletedProcess(words, process.returncode, *said), expect)


def run_afresh(
    *words: object, expect: int = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own."""
    settings = {"capture_output": True, "text": True, "env": environment(), "cwd": cwd}
    done = subprocess.run(command(*words), **settings)  # type: ignore[call-overload]
    return _checked(done, expect)


def _checked(
    done: subprocess.CompletedProcess[str], expect: int
) -> subprocess.CompletedProcess[str]:
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_on_two_ranks(*words: object) -> subprocess.CompletedProcess[str]:
    """The same under `torchrun`, and check that it ends well."""
    launch = [*TORCHRUN, "-m", "vistill.cli", *map(str, words)]
    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=600)
    return _checked(done, 0)


def kill_at_checkpoint(out: Path, *words: object, checkpoints: int = 1) -> None:
    """Begin `vistill WORDS...`, which writes to `out`, and kill it once so many checkpoints are
    there, in the middle of its run."""
    process = start(*words)
    deadline = time.monotonic() + 300
    while (
        process.poll() is None
        and len([*out.glob("checkpoints/step-*.pt")]) < checkpoints
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "result.json").exists()
