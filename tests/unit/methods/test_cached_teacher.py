"""A cached teacher: the loss of the live one, to rounding, for the view it was asked about."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building import build

from vistill.batch import Batch
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout
from vistill.methods.shared_view import SharedView
from vistill.models.vit import VisionTransformer


def vit(width: int, seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(image_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=2)


def batch(cache: TeacherCache | None, epoch: int) -> Batch:
    ids = torch.arange(4)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    found = Batch(pixels, seeds=ids + 1000 * epoch, ids=ids)
    if cache is None:
        return found
    seeds = torch.from_numpy(cache.seeds(0, ids.numpy()))
    return replace(found, cached=cache.for_batch(0, ids, seeds, cache.read(0, ids.numpy())))


def without_teacher(method: SharedView) -> None:
    def refuse(*_):
        raise AssertionError("the teacher was asked")

    method.teacher_features = refuse  # type: ignore[method-assign]


def live_loss(method: SharedView, cache: TeacherCache) -> torch.Tensor:
    """Of the view that the cache knows, by a teacher whose words nobody rounds."""
    asked = batch(cache, 0)
    exact = TeacherCache(cache.folder, Layout(cache.layout.shape, "fp32"), 1, 4)
    nothing = np.zeros(4, bool)
    return method(replace(asked, cached=replace(asked.cached, cache=exact, known=nothing))).total


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 0.0), ("bf16", 1e-3), ("int8", 1e-3)])
def test_the_map_of_a_teacher_is_cached(tmp_path: Path, precision, allowed: float):
    method = build("feature_distillation", vit(24, 0), vit(16, 1)).train()
    cache = TeacherCache(tmp_path / "c", Layout((17, 16), precision), 1, 4)
    cache.open_to_write({"format": 1})
    live = live_loss(method, cache)
    cold = method(batch(cache, 0)).total
    cache.close()
    without_teacher(method)
    warm = method(batch(cache, 0)).total
    assert torch.equal(cold, warm)  # a step that writes computes with what will be read
    assert abs(warm.item() / live.item() - 1) <= allowed
    assert precision == "fp32" or warm != live
    assert cache.read_pictures == 4


def test_the_view_comes_again_and_the_rest_does_not(tmp_path: Path):
    teacher = vit(16, 1)
    method = build(
        "kdep", vit(16, 0), teacher, align="identity", color_jitter=(0.4, 0.4, 0.4)
    ).train()
    cache = TeacherCache(tmp_path / "c", Layout((16,), "fp32"), 1, 4)
    cache.open_to_write({"format": 1})
    first, again = batch(cache, 0), batch(cache, 1)
    seen = [method.view(one, augment=True).pixels for one in (first, again)]
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], method.view(batch(None, 0), augment=True).pixels)
    assert not torch.equal(first.seeds, again.seeds)  # drop path draws from these
    cold = method(first).total
    cache.close()
    assert torch.equal(live_loss(method, cache), cold)
    without_teacher(method)
    assert torch.equal(method(batch(cache, 1)).total, cold)
    with pytest.raises(AssertionError, match="the teacher was asked"):
        method(batch(None, 0))


def test_a_teacher_rests_until_it_is_asked():
    method = build("feature_distillation", vit(24, 0), vit(16, 1))
    method.teacher_rests = True
    method.to_device("meta")
    assert next(method.parameters()).device.type == "meta"
    assert next(method.teacher.parameters()).device.type == "cpu"
