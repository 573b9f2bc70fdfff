"""What is measured between epochs: on whom, in which mode, against what a cache remembers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistill.batch import Batch
from vistill.config.loading import load_config
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.vit import VisionTransformer
from vistill.runs.probes import Probes
from vistill.runs.reading import open_samples

TRAIN, HELD_OUT = np.array([0, 2, 3, 5, 6, 7, 9, 10]), np.array([1, 4, 8, 11, 12])


def vit(width: int, seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(image_size=16, patch_size=8, embed_dim=width, depth=2, num_heads=2)


def probes(folder: Path, **options: Any) -> Probes:
    """Thirteen noisy pictures in one folder, two steps of two and one of one for five of them."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(13):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i:02}.png")
    words = {
        "data.train": str(folder / "pictures"),
        "data.image_size": 16,
        "train.global_batch_size": 4,
        "train.precision": "fp32",
        "train.micro_batch_size": 2,
    }
    config = load_config("feature_distillation", words.items())
    method = FeatureDistillation(vit(12, 0), vit(16, 1), drop_path=0.9).train()
    cpu, reading = torch.device("cpu"), open_samples(config.data)
    reading.source.labels = options.pop("labels", None)
    return Probes(config, method, reading, TRAIN, HELD_OUT, cpu, 0, **options)


def held_out(found: Probes) -> Batch:
    """All held-out pictures in one batch, each centred."""
    (batch,) = _whole(found, HELD_OUT)
    return batch


def _whole(found: Probes, ids: np.ndarray) -> list[Batch]:
    found.batch_size, usual = 99, found.batch_size
    batches = list(found._batches(ids))
    found.batch_size = usual
    return batches


@torch.no_grad()
def test_the_held_out_loss_is_the_mean_over_pictures(tmp_path):
    found = probes(tmp_path)
    measured = found(1)
    assert set(measured) == {"held_out_loss"}  # without labels no neighbours
    assert not found.method.training
    expected = found.method(held_out(found)).total
    assert measured["held_out_loss"] == pytest.approx(float(expected), rel=1e-5)
    found.method.train()
    assert float(found.method(held_out(found)).total) != pytest.approx(float(expected), rel=1e-3)


def test_held_out_pictures_are_no_neighbours_of_their_own(tmp_path):
    """Every class of a held-out picture is unknown to the bank, so none can be guessed."""
    labels = np.zeros(13, dtype=np.int64)
    labels[HELD_OUT] = 1
    found = probes(tmp_path, labels=labels)
    assert found(1)["knn"] == 0.0
    assert set(found.bank) == set(TRAIN)
    assert set(found.queries) == set(HELD_OUT)


@torch.no_grad()
def test_only_labelled_pictures_vote_and_are_asked(tmp_path):
    labels = np.arange(13, dtype=np.int64) % 3
    labels[[0, 3, 4]] = -1
    found = probes(tmp_path, labels=labels)
    votes = found(1)["knn"]
    assert set(found.bank) == set(TRAIN) - {0, 3}
    assert set(found.queries) == set(HELD_OUT) - {4}

    def features(ids: np.ndarray) -> torch.Tensor:
        (batch,) = _whole(found, ids)
        student = found.method.student
        pooled = student.pooled(student.normalization(batch.unit_pixels()))
        return torch.nn.functional.normalize(pooled, dim=1)

    bank, queries = np.sort(found.bank), np.sort(found.queries)
    likeness = features(queries) @ features(bank).T
    weights = ((likeness - 1) / 0.07).exp()  # six neighbours are fewer than twenty
    tally = torch.stack([weights[:, labels[bank] == c].sum(1) for c in range(3)], dim=1)
    hits = (tally.argmax(1).numpy() == labels[queries]).mean()
    assert votes == pytest.approx(100 * hits)


@torch.no_grad()
def test_the_teacher_is_cached_in_the_test_view(tmp_path):
    cache = TeacherCache(tmp_path / "cache", Layout((5, 16), "fp32"), 1, 13)
    cache.open_to_write({"format": 1})
    for view, value in ((0, 9.0), (cache.test_view, 0.0)):
        words = value + torch.randn(13, 5, 16, generator=torch.Generator().manual_seed(view))
        cache.store(view, np.arange(13), cache.layout.encode(words))
    cache.close()
    cache = TeacherCache(tmp_path / "cache", Layout((5, 16), "fp32"), 1, 13)
    found = probes(tmp_path, caches=[cache])
    measured = found(1)["held_out_loss"]
    method, batch = found.method, held_out(found)
    words = cache.layout.decode(cache.read(cache.test_view, HELD_OUT).raw)
    expected = method.compare(batch, method.target_of(words)).total
    assert measured == pytest.approx(float(expected), rel=1e-5)
    assert cache.computed_pictures == 0
