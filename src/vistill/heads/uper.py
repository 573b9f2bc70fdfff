"""Heads that tell the class of every pixel: UperNet (Xiao et al., arXiv 1807.10221), a plain
convolutional one, and the pyramid of maps that a plain ViT is given for them (spec 9)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_BINS = (1, 2, 3, 6)
_WIDENED = 1280 / 192
Maps = Sequence[Float[Tensor, "b d h w"]]
"""From fine to coarse."""


class ConvModule(nn.Module):
    """Convolution without a bias, batch norm, ReLU."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b e h w"]:
        return F.relu(self.bn(self.conv(x)))


class UperHead(nn.Module):
    """Pyramid pooling of the coarsest map, a way back up, and all levels side by side.

    Args:
        widths: channels of the maps, from fine to coarse.
        channels: of the head.
        num_classes: classes of a pixel.
    """

    def __init__(self, widths: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        *finer, coarsest = widths
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvModule(coarsest, channels, 1))
            for bins in _BINS
        )
        self.bottleneck = ConvModule(coarsest + len(_BINS) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in finer)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvModule(len(widths) * channels, channels, 3)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def features(self, maps: Maps) -> Float[Tensor, "b c h w"]:
        """What is classified, at the size of the finest map."""
        coarsest = maps[-1]
        pooled = [enlarged(level(coarsest), coarsest) for level in self.psp_modules]
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        levels.append(self.bottleneck(torch.cat([coarsest, *pooled], dim=1)))
        for number in range(len(levels) - 1, 0, -1):
            finer = levels[number - 1]
            levels[number - 1] = finer + enlarged(levels[number], finer)
        levels = [*(conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)), levels[-1]]
        together = torch.cat([enlarged(level, levels[0]) for level in levels], dim=1)
        return self.fpn_bottleneck(together)


class FCNHead(nn.Module):
    """One 3×3 convolution on one map."""

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvModule(width, channels, 3)])
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def features(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h w"]:
        """What is classified."""
        return self.convs[0](x)


class LinearHead(nn.Module):
    """Batch norm and a linear layer on one map."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)

    def features(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """What is classified."""
        return self.bn(x)


class SimplePyramid(nn.Module):
    """Four maps of one width, at 4, 2, 1 and 1/2 times the size of a plain ViT's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2))

    def forward(self, maps: Maps) -> list[Float[Tensor, "b d h w"]]:
        return [self.fpn1(maps[0]), self.fpn2(maps[1]), maps[2], F.max_pool2d(maps[3], 2)]


class WidePyramid(nn.Module):
    """The same four sizes with more channels, of a narrow ViT: TinyMIM*'s neck (spec 9).

    Args:
        width: of the ViT.

    Attributes:
        widths: of the maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        out, last = 4 * width, round(_WIDENED * width)
        self.conv1x1 = nn.Sequential(
            nn.LayerNorm(width, eps=1e-5), nn.Linear(width, last), nn.GELU()
        )
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, 2 * width, 2, 2),
            nn.BatchNorm2d(2 * width),
            nn.GELU(),
            nn.ConvTranspose2d(2 * width, out, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, out, 2, 2))
        self.fpn3 = nn.Conv2d(width, out, 1)
        self.fpn4 = nn.Sequential(nn.Conv2d(last, out, 3, 2, 1))
        self.widths = [out] * 4

    def forward(self, maps: Maps) -> list[Float[Tensor, "b d h w"]]:
        last = self.conv1x1(maps[3].movedim(1, -1)).movedim(-1, 1)
        return [self.fpn1(maps[0]), self.fpn2(maps[1]), self.fpn3(maps[2]), self.fpn4(last)]


def enlarged(
    x: Float[Tensor, "b d h w"], like: Float[Tensor, "b e h2 w2"]
) -> Float[Tensor, "b d h2 w2"]:
    """Bilinear, to the size of another map."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
