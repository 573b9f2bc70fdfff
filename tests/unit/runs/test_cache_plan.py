"""What a cache is made for: whose words, and of how many views of which pictures."""

from typing import Any

import pytest
import torch
from cell_runs import WORDS

from vistill.config.loading import load_config
from vistill.models.backbone import Normalization
from vistill.models.vit import VisionTransformer
from vistill.runs.adapting import Adapted
from vistill.runs.cache_plan import teacher_identity
from vistill.runs.pretraining import prepare
from vistill.runs.reading import open_samples


def vit(width: int, **changes: Any) -> VisionTransformer:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "depth": 1, "num_heads": 2}
    return VisionTransformer(embed_dim=width, **(sizes | changes))


def turned(teacher: VisionTransformer) -> VisionTransformer:
    with torch.no_grad():
        teacher.norm.bias[3] += 1e-3
    return teacher


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (turned(vit(16)), {"weights"}),
        (vit(16, num_heads=4), {"num_heads"}),
        (vit(16, normalization=Normalization(mean=(0.4, 0.456, 0.406))), {"mean"}),
        (vit(16, normalization=Normalization(std=(0.229, 0.224, 0.3))), {"std"}),
        (vit(16, image_size=48, patch_size=12), {"image_size", "weights"}),
        (vit(16).bfloat16(), {"weights"}),
        (vit(16), set()),
    ],
)
def test_a_teacher_is_its_weights_and_how_it_looks(other, told):
    ours, theirs = teacher_identity(vit(16)), teacher_identity(other)
    assert {name for name in ours if ours[name] != theirs[name]} == told


def test_views_of_trained_pictures_and_one_of_held_out_ones_are_wanted(tmp_path):
    words = WORDS | {"cache.path": str(tmp_path / "cache"), "cache.views": 3}
    config = load_config("feature_distillation", words.items())
    run = prepare(Adapted(config), open_samples(config.data), teacher=vit(24), student=vit(16))
    assert (len(run.train), len(run.held_out)) == (22, 5)
    (planned,) = run.planned
    assert (planned.found, planned.wanted) == (0, 3 * 22 + 5)
    assert planned.cache.layout.shape == (17, 24)
    assert not (tmp_path / "cache").exists()
