"""Frame indices and crops of clips against the published code of AMD and VideoMAE."""

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from vistill.data.video.sampling import (
    dense_clip,
    dense_views,
    segment_clip,
    segment_views,
    stretched_clip,
)


class Drawn:
    """Stands for the generator: gives the recorded draws and checks their bounds."""

    def __init__(self, draws: Iterable[int]) -> None:
        self.draws = list(draws)

    def integers(self, low: int, high: int, size: int | None = None) -> int | np.ndarray:
        assert all(low <= draw < high for draw in self.draws)
        return self.draws[0] if size is None else np.array(self.draws)


def test_training_clips(golden):
    for case in golden("train_indices", "amd").info:
        item = SimpleNamespace(**{"draw": [], "stride": 1} | case["item"])
        n, frames, rng = item.n_frames, item.clip_len, Drawn(item.draw)
        if item.mode == "segment_ft":
            found = segment_clip(n, frames, rng)
        elif item.mode == "pretrain_k400":
            found = dense_clip(n, frames, item.stride, rng)
        else:
            found = stretched_clip(n, frames, item.stride, rng)
        if item.mode == "pretrain_ssv2_frames":
            found = found + 1  # these are parts of file names, which count from 1
        assert found.tolist() == case["indices"], item


@pytest.mark.parametrize("name", ["test_views_dense", "test_views_segments"])
def test_frames_of_test_views(golden, name):
    case = golden(name, "amd")
    n, frames, clips = (case.config[key] for key in ("n_frames", "clip_len", "segments"))
    if case.config["dense"]:
        found = dense_views(n, frames, case.config["stride"], clips)
    else:
        found = segment_views(n, frames, clips)
    for view in case.info["views"]:
        assert found[view["clip"]].tolist() == view["frames"], view
