"""A part of a batch is the same samples in every field."""

import numpy as np
import pytest
import torch

from vistill.batch import Batch
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout


@pytest.fixture
def batch(tmp_path) -> Batch:
    cache = TeacherCache(tmp_path / "cache", Layout((2,), "fp32"), 1, 9)
    cache.open_to_write({"format": 1})
    cache.store(0, np.arange(9), cache.layout.encode(torch.arange(18.0).view(9, 2)))
    cache.close()
    ids = torch.tensor([8, 3, 5, 1])
    seeds = torch.from_numpy(cache.seeds(0, ids.numpy()))
    return Batch(
        pixels=ids.to(torch.uint8)[:, None, None, None].expand(4, 3, 2, 2),
        seeds=ids * 10,
        ids=ids,
        labels=ids % 3,
        inputs={"text": torch.stack([ids, ids + 1], dim=1), "item": -ids},
        cached=cache.for_batch(0, ids, seeds, cache.read(0, ids.numpy())),
    )


def test_rows_stay_together(batch):
    for part, ids in ((batch.take(torch.tensor([2, 0])), [5, 8]), (batch.first(3), [8, 3, 5])):
        assert part.ids.tolist() == ids
        assert len(part) == len(ids)
        assert part.pixels[:, 0, 0, 0].tolist() == ids
        assert part.seeds.tolist() == [10 * i for i in ids]
        assert part.labels.tolist() == [i % 3 for i in ids]
        assert part.inputs["text"].tolist() == [[i, i + 1] for i in ids]
        assert part.inputs["item"].tolist() == [-i for i in ids]
        assert part.cached.ids.tolist() == ids
        found = part.cached.features(lambda rows: pytest.fail("everything is known"))
        assert found.tolist() == [[2.0 * i, 2.0 * i + 1] for i in ids]
        assert torch.equal(part.view_seeds, part.cached.seeds)
        assert not torch.equal(part.view_seeds, part.seeds)
    assert len(batch.first(99)) == 4


def test_moving_keeps_every_field(batch):
    moved = batch.to("cpu")
    assert torch.equal(moved.labels, batch.labels)
    assert torch.equal(moved.seeds, batch.seeds)
    assert moved.inputs.keys() == batch.inputs.keys()
    assert torch.equal(moved.inputs["text"], batch.inputs["text"])
    assert batch.to("meta").inputs["text"].is_meta
    assert torch.equal(moved.cached.raw, batch.cached.raw)


def test_pixels_are_between_zero_and_one():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    one = torch.zeros(1, dtype=torch.int64)
    batch = Batch(levels, seeds=one, ids=one)
    assert batch.unit_pixels().flatten().tolist() == [0.0, pytest.approx(0.2), 1.0]
    as_they_are = Batch(batch.unit_pixels(), seeds=one, ids=one)
    assert as_they_are.unit_pixels() is as_they_are.pixels
