"""A run that fills a cache and is killed, again and again, ends with the weights of one that was
not, and with no wrong record in it."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cached_sides import sides
from forked import Forked
from safetensors.torch import load_file

import vistill
from vistill.data import cache as module
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

CELLS = Path(__file__).parents[1] / "data" / "cells" / "train"
COUNT, VIEWS, KILLS = 12, 2, 3
CASES: dict[str, dict[str, Any]] = {
    "tinymim": {"method": "tinymim"},
    "amd": {"method": "amd", "data.frames": 4, "data.stride": 2},
    "umt": {"method": "umt", "method.aligned_layers": 1, "data.frames": 2, "data.stride": 2},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_motion_clips(open_source(str(CELLS)), folder, count=COUNT, frames=8, size=32)
    return folder


def distil(case: str, data: Path, out: Path) -> int:
    """A run whose cache, beside it, is brought to the disk at every step."""
    module._COMMIT_SECONDS = 0.0
    settings = CASES[case]
    vistill.pretrain(
        data=data if settings.get("data.frames") else CELLS,
        out=out,
        **sides(settings),
        overrides={
            "data.image_size": 16,
            "data.workers": 0,
            "data.held_out": 0,
            "train.epochs": VIEWS + 1,
            "train.global_batch_size": 2,
            "train.checkpoint_steps": 1,
            "train.device": "cpu",
            "train.precision": "fp32",
            "train.loggers": [],
            "optim.warmup_epochs": 0,
            "cache.path": str(out.parent / f"{out.name}-cache"),
            "cache.views": VIEWS,
            "cache.precision": "fp32",
            **settings,
        },
    )
    return 0


def written(out: Path) -> int:
    """Records that are marked as whole."""
    marks = (out.parent / f"{out.name}-cache").glob("written-[0-9].bin")
    return sum(path.read_bytes().count(1) for path in marks)


def assert_same_records(killed: Path, whole: Path) -> None:
    """What a kill lost is missing, for the teacher to say again; what is marked is right."""
    ours, theirs = (out.parent / f"{out.name}-cache" for out in (killed, whole))
    for view in range(VIEWS):
        marks = [np.fromfile(place / f"written-{view}.bin", np.uint8) for place in (ours, theirs)]
        both = np.flatnonzero(marks[0] & marks[1])
        assert len(both) > len(marks[1]) // 2
        found = [
            np.fromfile(place / f"records-{view}.bin", np.float32).reshape(len(marks[1]), -1)[both]
            for place in (ours, theirs)
        ]
        np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def ended(process: Forked) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_while_it_fills_its_cache(case: str, clips: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended(Forked(lambda: distil(case, clips, whole)))
    total = written(whole)
    draws = random.Random(time.time_ns())
    goals = sorted(draws.randint(1, total - 1) for _ in range(KILLS))
    delays = [draws.uniform(0, 0.05) for _ in goals]
    print("killed after records", goals, "of", total, "and seconds", delays)
    for goal, delay in zip(goals, delays, strict=True):
        process = Forked(lambda: distil(case, clips, killed))
        while process.poll() is None and written(killed) < goal:
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (-9, 0), errors
    ended(Forked(lambda: distil(case, clips, killed)))
    assert_same_records(killed, whole)
    ours, theirs = (
        load_file(out / "export" / "last" / "model.safetensors") for out in (killed, whole)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
    lines = [(out / "metrics.jsonl").read_text().splitlines() for out in (killed, whole)]
    assert len(lines[0]) == len(lines[1])
