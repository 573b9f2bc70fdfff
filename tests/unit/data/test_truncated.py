"""JPEGs that lack only their end marker: broken, or used and counted where that is allowed."""

import logging
from pathlib import Path

import numpy as np
import pytest
from picture_kinds import kinds
from PIL import Image

from vistill.data import BrokenImage, Decoding, EvalTransform, decode_image, open_source
from vistill.data.broken import LISTED, BrokenFiles
from vistill.data.decode import EndMissing
from vistill.data.loading import eval_batches
from vistill.data.readable import require_readable
from vistill.data.stream import TrainStream
from vistill.errors import UserError

KINDS = {
    "YCbCr": ("RGB", {}),
    "grey": ("L", {}),
    "progressive": ("RGB", {"progressive": True}),
    "CMYK": ("CMYK", {}),
}


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    return kinds.saved(Image.fromarray(kinds.RGB).convert(mode), "JPEG", **options)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_end_marker_is_missing(kind: str, lost: int) -> None:
    mode, options = KINDS[kind]
    data = jpeg(mode, **options)
    with pytest.raises(EndMissing, match=r"^truncated, but .*allow_truncated=true") as caught:
        decode_image(data[:-lost])
    np.testing.assert_array_equal(caught.value.pixels, decode_image(data))


@pytest.mark.parametrize("lost", [6, 40, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_end_marker_is_missing(kind: str, lost: float) -> None:
    mode, options = KINDS[kind]
    data = jpeg(mode, **options)
    with pytest.raises(BrokenImage, match=r"^truncated$"):
        decode_image(data[: -int(lost if lost > 1 else lost * len(data))])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four whole ones, three without end marker, one half."""
    data = jpeg()
    for number, stop in enumerate([None, -2, None, -2, -2, None, None, len(data) // 2]):
        (tmp_path / f"{number}.jpg").write_bytes(data[:stop])
    return tmp_path


def test_they_are_left_out_unless_allowed(pictures: Path, caplog) -> None:
    for allowed, ids in ((False, [0, 2, 5, 6]), (True, [0, 1, 2, 3, 4, 5, 6])):
        source = open_source(str(pictures), decoding=Decoding(allow_truncated=allowed))
        account = BrokenFiles(8, max_share=1.0)
        batches = eval_batches(
            source, np.arange(8), EvalTransform(16), batch_size=4, workers=0, broken=account
        )
        assert [int(i) for batch in batches for i in batch.ids] == ids
        assert sorted(account.mended) == (["1.jpg", "3.jpg", "4.jpg"] if allowed else [])
        assert account.summary() == ("1 broken · 3 without end marker" if allowed else "4 broken")
    assert caplog.text.count("used a picture without its end marker: ") == 3
    assert caplog.text.count("skipped a broken picture: ") == 5


def test_training_counts_each_once(pictures: Path) -> None:
    source = open_source(str(pictures), decoding=Decoding(allow_truncated=True))
    stream = TrainStream(
        source,
        np.arange(8),
        EvalTransform(16),
        seed=0,
        global_batch_size=4,
        micro_batch_size=4,
        workers=0,
        max_broken=0.2,
    )
    assert sum(len(batch.ids) for batch in stream.iterate(0, 4)) == 16
    assert stream.broken.summary() == "1 broken · 3 without end marker"


def test_many_are_not_all_named(caplog) -> None:
    account = BrokenFiles(100, max_share=0.0)
    with caplog.at_level(logging.WARNING, "vistill.data"):
        for _ in range(2):
            account.add_mended(f"{i}.jpg" for i in range(100))
    assert len(caplog.records) == LISTED + 1
    assert account.summary() == "100 without end marker"


def test_a_source_of_nothing_else_names_the_switch(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg()[:-2])
    with pytest.raises(UserError, match="allow_truncated=true would use it"):
        require_readable(open_source(str(tmp_path)))
    assert require_readable(open_source(str(tmp_path), decoding=Decoding(None, True))) == []
