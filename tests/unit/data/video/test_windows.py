"""Spans cover a video from its start to its end, all of one length."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vistill.data.video.windows import windows


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
