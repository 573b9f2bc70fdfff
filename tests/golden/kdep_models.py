"""The small networks of KDEP's golden cases, built from torchvision's and filled by their names."""

import torch
from torch import nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.files.cnn import plain_names
from vistill.targets.calibration import Calibration

FOREIGN = ("svd_", "emb.", "l2norm.")


def resnet(state, block, layers, width_div, image_size=224):
    """A ResNet whose stages are `width_div` times narrower behind the usual stem."""
    kind = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
    net = ResNet(kind, [1, 1, 1, 1])
    net.inplanes = 64
    for stage, (blocks, planes) in enumerate(zip(layers, (64, 128, 256, 512), strict=True), 1):
        stride = 1 if stage == 1 else 2
        built = net._make_layer(kind, planes // width_div, blocks, stride=stride)
        setattr(net, f"layer{stage}", built)
    own = {name: value for name, value in state.items() if not name.startswith(FOREIGN)}
    net.fc = nn.Linear(own["fc.weight"].shape[1], own["fc.weight"].shape[0])
    return _filled(net, own, image_size)


def mobilenet(state, width_mult, classes, image_size):
    """MobileNetV2 from the layout of the KDEP code."""
    net = MobileNetV2(num_classes=classes, width_mult=width_mult, round_nearest=4)
    return _filled(net, plain_names(state), image_size)


def _filled(net, state, image_size):
    dtype = next(v.dtype for v in state.values() if v.is_floating_point())
    net.to(dtype).load_state_dict(state)
    return PooledBackbone(net, image_size=image_size)


def given_svd(state):
    """A calibration that holds a published mean and published directions."""
    basis = state["svd_v"]
    ones = torch.ones(basis.shape[1], dtype=basis.dtype)
    return Calibration(torch.tensor(10**6), state["svd_mean"], ones, ones, basis)
