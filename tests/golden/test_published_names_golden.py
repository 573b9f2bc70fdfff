"""Published architectures of MAE and TinyMIM: our names, shapes and numbers of parameters."""

import pytest
import torch

from vistill.evaluation.classifier import Classifier
from vistill.models.build import create_backbone

BACKBONES = {
    "mae_vit_small": "vit_small",
    "mae_vit_base": "vit_base",
    "mae_vit_large": "vit_large",
    "tinymim_vit_tiny_patch16": "vit_tiny",
    "tinymim_vit_small_patch16": "vit_small",
    "tinymim_vit_base_patch16": "vit_base",
}


def first_block(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The published lists name the first block only; the others repeat it."""
    return {k: v for k, v in shapes.items() if not k.startswith("blocks.") or ".0." in k[:9]}


@pytest.mark.parametrize("published", BACKBONES)
def test_named_sizes(golden, published):
    expected = golden("official_parameter_names").info[published]
    with torch.device("meta"):
        model = create_backbone(BACKBONES[published])
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert first_block(shapes) == expected["names"]
    assert sum(p.numel() for p in model.parameters()) == expected["n_params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["n_trainable"]
    if published.startswith("mae"):  # TinyMIM's split a block anew for their relations
        assert list(model.num_heads) == expected["heads_per_block"]


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_fine_tuned_classifiers(golden, size):
    name = f"vit_{size}_patch16{{'num_classes': 1000, 'global_pool': True}}"
    expected = golden("official_parameter_names").info[name]
    with torch.device("meta"):
        model = Classifier(create_backbone(f"vit_{size}"), 1000)
    names = {k.removeprefix("student."): list(v.shape) for k, v in model.state_dict().items()}
    unused = {"norm.weight", "norm.bias"}  # behind the average that is classified
    assert first_block({k: v for k, v in names.items() if k not in unused}) == expected["names"]
    assert list(model.student.num_heads) == expected["heads_per_block"]
