"""The ResNets of CIFAR (He et al. 2016, section 4.2), with weights of pytorch_resnet_cifar10."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone, Normalization

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions; a shortcut without weights drops every second pixel."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == width else 2
        self.conv1 = nn.Conv2d(inputs, width, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            extra = (residual.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        return F.relu(residual + x)


class CifarResNet(nn.Module):
    """The one of 6n + 2 layers for 32 pixels."""

    def __init__(self, layers: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for width in widths:
            blocks = [Block(inputs, width)]
            blocks += [Block(width, width) for _ in range((layers - 2) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean(dim=(2, 3)))


def resnet(layers: int, weights: Path | None = None, widths: Sequence[int] = WIDTHS) -> Backbone:
    """A CIFAR ResNet as a backbone, with the weights of a file of pytorch_resnet_cifar10."""
    module = CifarResNet(layers, widths)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict({name.removeprefix("module."): x for name, x in state.items()})
    module = module.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    return PooledBackbone(
        module,
        image_size=32,
        normalization=Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        origin="not pre-trained" if weights is None else f"file {weights.name}",
    )
