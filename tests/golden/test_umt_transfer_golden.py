"""UMT's fine-tuning, tests and action detection as its code has them (spec umt 7, 8)."""

import numpy as np
import pytest
import torch

from vistill.data.video.sampling import clip_views, segment_clip, segment_views
from vistill.evaluation.metrics import top_k_hits
from vistill.evaluation.views import merge_views


class Drawn:
    """Stands for the generator: gives the recorded draws."""

    def __init__(self, draws: list[int]) -> None:
        self.draws = draws

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert all(low <= draw < high for draw in self.draws)
        return np.array(self.draws)


def test_frames_of_clips_and_views(golden):
    case = golden("ft_video_sampling", "umt")
    for number, (n, frames, clips) in enumerate(case.config["kin"]):
        middle = clip_views(n, frames, 1, "slices", 1)
        views = clip_views(n, frames, 1, "slices", clips)
        assert np.concatenate([middle, views]).tolist() == case.output[f"kin_{number}"].tolist()
    for number, (n, frames, clips) in enumerate(case.config["ssv2"]):
        middle = clip_views(n, frames, 1, "segments", 1)[0]
        assert middle.tolist() == case.output[f"ssv2_validation_{number}"].tolist()
        views = segment_views(n, frames, clips)
        assert views.T.ravel().tolist() == case.output[f"ssv2_test_{number}"].tolist()
    for number, (n, frames) in enumerate(case.config["pt"]):
        found = segment_clip(n, frames, Drawn(case.inputs[f"rand_{number}"].tolist()))
        if n < frames:  # the published clip of so short a video is its first frame alone
            assert set(found) == set(range(n))
            assert set(case.output[f"pt_{number}"].tolist()) == {0}
        else:
            assert found.tolist() == case.output[f"pt_{number}"].tolist()


def test_views_are_merged(golden):
    case = golden("ft_view_aggregation", "umt")
    logits, labels = case.inputs["logits"], case.inputs["labels"]
    videos, views, classes = logits.shape
    ids = torch.arange(videos).repeat_interleave(views)
    numbers = torch.arange(views).repeat(videos)
    rows = torch.cat([torch.randperm(videos * views), torch.arange(7)])
    merged = merge_views(
        logits.reshape(-1, classes)[rows], ids[rows], numbers[rows], torch.zeros_like(ids)[rows]
    )
    assert merged.probabilities.argmax(1).tolist() == case.output["pred"].tolist()
    for k in (1, 5):
        share = 100 * top_k_hits(merged.probabilities, labels, k) / videos
        assert share == pytest.approx(float(case.output[f"top{k}"]), rel=1e-9)
