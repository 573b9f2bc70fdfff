"""PSPNet (Zhao et al., arXiv 1612.01105) around a CNN of torchvision: how KDEP's students are
transferred to semantic segmentation (spec kdep 11.2)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet

from vistill.errors import UserError
from vistill.models.backbone import Backbone
from vistill.random import Stream, per_sample_uniform

_BINS = (1, 2, 3, 6)
_NEW = ("ppm", "cls", "aux")
_NEW_SCALE = 10.0
_DROPPED = 0.1


class PyramidPooling(nn.Module):
    """Means over 1, 2², 3² and 6² regions, reduced, enlarged and laid beside the map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        reduced = width // len(_BINS)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(side),
                nn.Conv2d(width, reduced, 1, bias=False),
                nn.BatchNorm2d(reduced),
                nn.ReLU(inplace=True),
            )
            for side in _BINS
        )

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 2d h w"]:
        return torch.cat([x, *(_enlarge(level(x), x) for level in self.features)], dim=1)


class PSPNet(nn.Module):
    """The ordinary network of a CNN backbone, with a pyramid head in place of its classifier.

    A ResNet is dilated to an output stride of 8 and has an auxiliary head on its third stage; a
    MobileNetV2 keeps its stride and has none.

    Args:
        backbone: around torchvision's ResNet or MobileNetV2; its layers become part of the network.
        num_classes: classes of a pixel.

    Raises:
        UserError: another network.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        net: Any = getattr(backbone, "module", None)
        if isinstance(net, ResNet):
            self.layer0 = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
            self.layer1, self.layer2 = net.layer1, net.layer2
            self.layer3, self.layer4 = dilated(net.layer3, 2), dilated(net.layer4, 4)
        elif isinstance(net, MobileNetV2):
            self.layer0 = net.features
        else:
            raise UserError(
                "PSPNet stands on torchvision's ResNets and MobileNetV2, not on a "
                f"{type(backbone if net is None else net).__name__}"
            )
        width = backbone.width
        self.ppm = PyramidPooling(width)
        self.cls = PixelHead(2 * width, 512, num_classes)
        third = width // 2  # of a ResNet's channels are those of its third stage
        self.aux = PixelHead(third, 256, num_classes) if isinstance(net, ResNet) else None

    def forward(
        self, images: Float[Tensor, "b 3 h w"], seeds: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"] | None]:
        """Class scores of every pixel of normalised images; in training the auxiliary ones too.

        Where images have `seeds`, which channels are dropped derives from them.
        """
        x, third = self.layer0(images), None
        if self.aux is not None:
            third = self.layer3(self.layer2(self.layer1(x)))
            x = self.layer4(third)
        scores = _enlarge(self.cls(self.ppm(x), seeds), images)
        if self.aux is None or third is None or not self.training:
            return scores, None
        return scores, _enlarge(self.aux(third, seeds), images)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups by part; the new ones learn ten times as fast (`lr_scale`)."""
        return [
            {
                "name": name,
                "params": list(part.parameters()),
                "lr_scale": _NEW_SCALE if name in _NEW else 1.0,
            }
            for name, part in self.named_children()
        ]


def dilated(stage: nn.Sequential, dilation: int) -> nn.Sequential:
    """A ResNet's stage without its stride; the second 3×3 convolutions see further instead.

    The first 3×3 convolution of a basic block keeps its dilation of 1, as published.
    """
    for block in stage:
        for name, module in block.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            module.stride = (1, 1)
            if name == "conv2":
                module.dilation = module.padding = (dilation, dilation)
    return stage


class PixelHead(nn.Sequential):
    """Convolution, batch norm, ReLU, dropped channels, class scores."""

    def __init__(self, width: int, hidden: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(width, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout2d(_DROPPED),
            nn.Conv2d(hidden, num_classes, 1),
        )

    def forward(
        self, x: Float[Tensor, "b d h w"], seeds: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        if seeds is None:
            return super().forward(x)
        convolution, norm, activation, _, scores = self
        x = activation(norm(convolution(x)))
        kept = per_sample_uniform(seeds, x.shape[1], Stream.HEAD_DROPOUT) >= _DROPPED
        return scores(x * (kept[:, :, None, None] / (1 - _DROPPED)).to(x.dtype))


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
