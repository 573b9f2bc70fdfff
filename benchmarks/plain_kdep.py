"""A KDEP step written down plainly: the other side of the benchmark, no part of vistill.

As published: the networks of torchvision, whose last activation is skipped by hand, with their
classifiers run though nothing uses their scores; the projection and the power in the open.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet


def last_block(block: nn.Module, x: Tensor) -> Tensor:
    """A ResNet's block without its last activation."""
    identity = x if block.downsample is None else block.downsample(x)
    out = block.relu(block.bn1(block.conv1(x)))
    out = block.bn2(block.conv2(out))
    if hasattr(block, "conv3"):
        out = block.bn3(block.conv3(block.relu(out)))
    return out + identity


def resnet(net: ResNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled feature in front of the last activation, and class scores."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    x = net.layer3(net.layer2(net.layer1(x)))
    for block in net.layer4[:-1]:
        x = block(x)
    pooled = F.adaptive_avg_pool2d(last_block(net.layer4[-1], x), 1).flatten(1)
    return pooled, net.fc(pooled)


def mobilenet(net: MobileNetV2, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a MobileNetV2."""
    x = net.features[:-1](x)
    convolution, norm, _ = net.features[-1]
    pooled = F.adaptive_avg_pool2d(norm(convolution(x)), 1).flatten(1)
    return pooled, net.classifier(pooled)


def forward(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled feature and class scores."""
    return resnet(net, x) if isinstance(net, ResNet) else mobilenet(net, x)


def plain_loss(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    mean: Tensor,
    basis: Tensor,
    *,
    temperature: float = 0.1,
    n: float = 3.0,
    weight: float = 3.0,
) -> Tensor:
    """The loss of one step, both sides seeing the same normalised images."""
    with torch.no_grad():
        feature, _ = forward(teacher, images)
        aligned = (feature - mean) @ basis
        target = aligned.sign() * (aligned.abs() / temperature).pow(1 / n)
    found, _ = forward(student, images)
    return weight * F.mse_loss(found, target)
