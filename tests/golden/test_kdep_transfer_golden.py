"""KDEP's transfer protocols: Caltech-256's split, PSPNet's shapes, groups and learning rates."""

import numpy as np
import pytest
import torch
from torch import nn

from vistill.config.optim import OptimConfig
from vistill.evaluation.budgets import split_first
from vistill.models.build import create_backbone
from vistill.models.pspnet import PSPNet
from vistill.training.optim import build_optimizer, set_lr
from vistill.training.schedule import learning_rate


def test_caltech256_split(golden):
    expected = golden("caltech256_split", "kdep").info
    labels = np.repeat(np.arange(3), expected["images_per_class"])
    train, test = split_first(labels, 60)
    assert train.tolist() == expected["train_indices"]
    assert test.tolist() == expected["test_indices"]


def test_segmentation_transfer(golden):
    case = golden("segmentation_transfer", "kdep")
    expected = case.info
    torch.manual_seed(0)
    net = PSPNet(create_backbone("torchvision/resnet18", image_size=64), 3)
    parts = {group["name"]: group for group in net.groups()}
    assert len(parts) == len(expected["psp18_groups"])
    for wanted in expected["psp18_groups"]:
        found = parts[wanted["module"]]
        assert found["lr_scale"] == wanted["lr_mult"]
        assert len(found["params"]) == wanted["n_tensors"]
    shapes = {
        name: [*parameter.shape]
        for name, parameter in net.named_parameters()
        if not name.startswith("layer")
    }
    assert shapes == expected["psp18_head_shapes"]
    wide = {
        name: {key: [*getattr(module, key)] for key in ("stride", "dilation", "padding")}
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith(("layer3", "layer4"))
    }
    assert wide == expected["psp18_conv_geometry"]

    poly = expected["poly"]
    optimizer = build_optimizer(net.groups(), OptimConfig(optimizer="sgd", schedule="poly"))
    for done, rate in poly["lr_after_iteration"].items():
        found = learning_rate(
            int(done),
            lr=poly["base_lr"],
            min_lr=0.0,
            warmup_epochs=0,
            epochs=poly["max_iter"],
            schedule="poly",
            power=poly["power"],
        )
        assert found == pytest.approx(rate, rel=case.rtol, abs=case.atol)
        set_lr(optimizer, found)
        assert optimizer.param_groups[-1]["lr"] == pytest.approx(10 * rate, rel=1e-9, abs=1e-12)
