"""Broken pictures are skipped, named once and replaced the same way everywhere; too many stop."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistill.batch import Batch
from vistill.data import (
    BrokenFiles,
    EvalTransform,
    TrainStream,
    TrainTransform,
    eval_batches,
    open_source,
)
from vistill.errors import UserError

BROKEN = {
    "05-truncated.jpg": "truncated",
    "11-empty.png": "the file is empty",
    "17-web-page.jpg": "not a picture",
}
TOTAL = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = Image.effect_noise((40, 30), 80).convert("RGB")
    out = io.BytesIO()
    noise.save(out, "JPEG")
    for i in range(TOTAL):
        (tmp_path / f"{i:02}.jpg").write_bytes(out.getvalue())
    for name, data in zip(BROKEN, (out.getvalue()[:500], b"", b"<!doctype html>"), strict=True):
        (tmp_path / f"{name[:2]}.jpg").unlink()
        (tmp_path / name).write_bytes(data)
    return tmp_path


def stream(folder: Path, **options: object) -> TrainStream:
    settings: dict = {"global_batch_size": 8, "micro_batch_size": 8, "workers": 0}
    settings |= {"max_broken": 0.2, "seed": 0} | options
    return TrainStream(open_source(str(folder)), np.arange(TOTAL), TrainTransform(16), **settings)


def ids(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.ids for batch in batches]).tolist()


def test_skipped_named_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = stream(folder)
    with caplog.at_level(logging.WARNING):
        batches = list(data.iterate(0, 2 * data.steps_per_epoch))
    assert data.broken.names == BROKEN
    assert len(caplog.messages) == 3
    assert all(len(batch) == 8 for batch in batches)
    assert not {5, 11, 17} & set(ids(batches))


def test_replacements_do_not_depend_on_workers_ranks_or_resuming(folder: Path) -> None:
    expected = list(stream(folder).iterate(0, 5))
    data = stream(folder, workers=2)
    for ours, theirs in zip(data.iterate(0, 5), expected, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.seeds, theirs.seeds)
    assert data.broken.names == BROKEN
    data.close()
    halves = [
        list(stream(folder, rank=r, world_size=2, micro_batch_size=4).iterate(3, 5))
        for r in range(2)
    ]
    assert [ids([a, b]) for a, b in zip(*halves, strict=True)] == [ids([b]) for b in expected[3:]]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_stop_with_the_list(folder: Path, workers: int) -> None:
    data = stream(folder, max_broken=0.1, workers=workers)
    with pytest.raises(UserError) as caught:
        list(data.iterate(0, 10))
    message = str(caught.value)
    assert message.startswith("3 of 24 pictures (12.5%) cannot be read, more than data.max_broken")
    for name, reason in BROKEN.items():
        assert f"{name} ({reason})" in message


def test_nothing_readable(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"pictures in a row cannot be read: .* and 4 more"):
        list(stream(folder, max_broken=1.0).iterate(0, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_them_out(folder: Path, workers: int) -> None:
    broken = BrokenFiles(TOTAL, 0.5)
    batches = eval_batches(
        open_source(str(folder)),
        np.arange(TOTAL),
        EvalTransform(16),
        batch_size=3,
        workers=workers,
        broken=broken,
    )
    assert ids(list(batches)) == [i for i in range(TOTAL) if i not in (5, 11, 17)]
    assert broken.names == BROKEN


def test_a_batch_of_broken_pictures_only(folder: Path) -> None:
    broken = BrokenFiles(TOTAL, 1.0)
    source = open_source(str(folder))
    indices = np.array([5, 11, 1])
    transform = EvalTransform(16)
    batches = eval_batches(source, indices, transform, batch_size=2, workers=0, broken=broken)
    assert ids(list(batches)) == [1]


def test_the_account_survives_a_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = stream(folder)
    list(data.iterate(0, 3))
    again = stream(folder)
    again.broken.load(data.broken.state())
    caplog.clear()
    list(again.iterate(3, 6))
    assert again.broken.names == BROKEN
    assert not caplog.messages


def test_a_picture_that_vanishes_is_broken(folder: Path) -> None:
    data = stream(folder)
    (folder / "00.jpg").unlink()
    list(data.iterate(0, 3))
    assert data.broken.names["00.jpg"] == "cannot be read: No such file or directory"


def test_replacements_are_training_pictures_with_labels_of_their_own(tmp_path: Path) -> None:
    """Every picture is its class in grey; of the training pictures every third is broken."""
    for i in range(30):
        place = tmp_path / f"class_{i % 5}" / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (50 * (i % 5),) * 3).save(place)
    source = open_source(str(tmp_path))
    train = np.array([i for i in range(30) if i % 2])
    for i in train[::3]:
        (tmp_path / source.names[i]).write_bytes(b"")
    data = TrainStream(
        source, train, TrainTransform(16, flip=0), seed=1, global_batch_size=5,
        micro_batch_size=5, workers=0, max_broken=0.9, repeats=2,
    )  # fmt: skip
    seen = set()
    for batch in data.iterate(0, 12):
        levels = (batch.pixels.float().mean((1, 2, 3)) / 50).round().long()
        assert torch.equal(levels, batch.labels)
        assert torch.equal(torch.from_numpy(source.labels)[batch.ids], batch.labels)
        assert batch.ids[0::2].tolist() == batch.ids[1::2].tolist()
        assert len(set(batch.seeds.tolist())) == 10  # copies have masks of their own
        seen |= set(batch.ids.tolist())
    assert seen == set(train) - set(train[::3])


def test_as_many_as_allowed_may_be_broken() -> None:
    broken = BrokenFiles(10, 0.2)
    broken.add([("a", "x"), ("b", "x")])
    broken.add([("b", "x")])
    with pytest.raises(UserError, match=r"3 of 10 pictures \(30.0%\) cannot be read"):
        broken.add([("c", "x")])
