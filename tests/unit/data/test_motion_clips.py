"""Motion clips: the label is what the content does, and nothing but the motion tells it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vistill.data import open_source
from vistill.data.motion_clips import MOTIONS, render_clip, write_motion_clips

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"


def slopes(frames):
    """Mean brightness and its slopes to the right and downwards, per frame."""
    grey = frames.float().mean(-1)
    return grey.mean((1, 2)), grey.diff(dim=2).mean((1, 2)), grey.diff(dim=1).mean((1, 2))


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_content_does_what_the_label_says(motion):
    ramp = torch.linspace(0, 250, 400).round().byte()
    vertical = motion in ("up", "down")
    picture = (ramp[:, None] if vertical else ramp[None]).expand(3, 400, 400)
    clip = render_clip(picture, motion, frames=9, size=32, rng=np.random.default_rng(0))
    assert clip.shape == (9, 32, 32, 3)
    mean, right, down = slopes(clip)
    brighter = mean[-1] - mean[0]  # of a place in the frame: dark content came from the left or top
    if motion in ("left", "up"):
        assert brighter > 10
    elif motion in ("right", "down"):
        assert brighter < -10
    elif motion == "clockwise":  # from "bright is right" towards "bright is below"
        assert down[-1] - down[0] > 0.3
    elif motion == "counterclockwise":
        assert down[-1] - down[0] < -0.3
    elif motion == "zoom_in":
        assert right[-1] < 0.85 * right[0]
    else:
        assert right[-1] > 1.15 * right[0]


def test_clips_are_written_once_balanced_and_repeatable(tmp_path):
    source = open_source(str(CELLS))
    write_motion_clips(source, tmp_path / "a", count=10, frames=4, size=16, seed=3)
    names = sorted(path.relative_to(tmp_path / "a") for path in tmp_path.glob("a/*/*.mp4"))
    assert len(names) == 10
    assert {name.parent.name for name in names} == set(MOTIONS)
    first = tmp_path / "a" / names[0]
    before = first.read_bytes()
    first.unlink()
    untouched = (tmp_path / "a" / names[1]).stat().st_mtime_ns
    write_motion_clips(source, tmp_path / "a", count=10, frames=4, size=16, seed=3)
    assert first.read_bytes() == before
    assert (tmp_path / "a" / names[1]).stat().st_mtime_ns == untouched
