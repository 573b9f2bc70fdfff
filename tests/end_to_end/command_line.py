"""Runs the real command line on a few real pictures with models of two small blocks."""

import os
import subprocess
import sys
from pathlib import Path

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


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "vistill.cli", *map(str, words)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(
    *words: object, expect: int = 0, cwd: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run `vistill WORDS...` and check its exit code."""
    done = subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=timeout,
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
