import numpy as np
import pytest

from vistill.data.video.sampling import clip_views, dense_views, segment_views, training_clip

WAYS = ["dense", "stretched", "segments", "slices", "intervals", "sparse"]


@pytest.mark.parametrize("sampling", WAYS)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 31, 64, 65, 300])
def test_indices_lie_in_the_video_and_ascend(sampling, n):
    for seed in range(20):
        chosen = training_clip(n, 16, 4, sampling, np.random.default_rng(seed))
        assert chosen.shape == (16,)
        assert chosen.min() >= 0
        assert chosen.max() < n
        assert np.all(np.diff(chosen) >= 0)
    for clips in (1, 2, 5):
        views = clip_views(n, 16, 4, sampling, clips)
        assert views.shape == (clips, 16)
        assert views.min() >= 0
        assert views.max() < n


def test_a_single_dense_view_lies_in_the_middle():
    assert dense_views(100, 4, 5, 1)[0].tolist() == [40, 45, 50, 55]


def test_segment_views_share_the_segments_out():
    assert segment_views(12, 4, 1).tolist() == [[0, 3, 6, 9]]
    assert segment_views(12, 4, 2).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10]]


def test_a_single_view_of_segments_lies_in_their_middle():
    for sampling in ("segments", "sparse", "slices"):
        assert abs(clip_views(120, 4, 1, sampling, 1)[0] - [15, 45, 75, 105]).max() <= 2


def test_slices_leave_no_frame_out():
    drawn = [training_clip(31, 8, 1, "slices", np.random.default_rng(s)) for s in range(200)]
    assert set(np.concatenate(drawn)) == set(range(31))


def test_sparse_clips_move_with_their_phase():
    starts = {training_clip(64, 4, 1, "sparse", np.random.default_rng(s))[0] for s in range(40)}
    assert len(starts) > 8
    assert max(starts) < 16
