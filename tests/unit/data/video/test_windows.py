"""Spans cover a video from its start to its end, all of one length."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vistill.data import BrokenImage, open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.data.parts import PartSource
from vistill.data.source import Stretch
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.windows import KeptOpen, windows, windows_of

CELLS = Path(__file__).parents[3] / "data" / "cells"


@pytest.mark.slow
@given(
    st.floats(0.05, 5000), st.floats(0.1, 100), st.floats(0.01, 1.0)
)  # length, window, share of it
def test_spans_cover_all(length: float, window: float, share: float) -> None:
    stride = max(0.1, window * share) if window > 0.1 else window
    spans = windows(length, window, min(stride, window))
    assert spans[0][0] == 0
    assert abs(spans[-1][1] - length) <= 2e-3 * window
    for (start, end), (following, _) in pairwise(spans):
        assert abs(end - start - window) < 1e-6
        assert start < following <= end + 1e-6
    assert length > window or spans == [(0.0, length)]


def test_spans_of_a_minute() -> None:
    assert windows(60, 20, 20) == [(0, 20), (20, 40), (40, 60)]
    assert windows(50, 20, 20) == [(0, 20), (20, 40), (30, 50)]
    assert windows(60, 30, 15) == [(0, 30), (15, 45), (30, 60)]
    assert windows(10, 30, 15) == [(0, 10)]


def test_a_video_that_stays_open_gives_the_same_frames(tmp_path: Path) -> None:
    write_motion_clips(open_source(str(CELLS / "test")), tmp_path, count=2, frames=40, size=32)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    source = open_source(str(tmp_path), "video")
    whole = [i for i in range(3) if "broken" not in source.sample_name(i)]
    (broken,) = set(range(3)) - set(whole)
    cut = [(i, span) for i in whole for span in windows_of(source, i, 0.6, 0.3)]
    cut.insert(len(cut) // 2, (broken, Stretch(0, 1)))
    samples = np.array([i for i, _ in cut])
    stamps = source.stamps()[samples]
    parts = PartSource(source, samples, [span for _, span in cut], stamps)
    decoder = ClipDecoder(3, 2, "dense", views=1)
    kept = pickle.loads(pickle.dumps(KeptOpen(decoder)))
    rng = np.random.default_rng(0)
    order = [*range(len(cut)), 0, len(cut) - 1, 1]
    for j in order:
        if samples[j] == broken:
            with pytest.raises(BrokenImage):
                kept(parts, j, rng)
        else:
            torch.testing.assert_close(kept(parts, j, rng), decoder(parts, j, rng))
    opened = [parts.sample_name(j) for j in range(len(cut))]
    assert len(set(opened)) == len(cut)  # each part has a name of its own
