"""Pyramids of maps of one width for detectors: of a plain ViT's last map (Li et al., arXiv
2203.16527) or of several maps (Lin et al., arXiv 1612.03144)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

Maps = Sequence[Float[Tensor, "b d h w"]]
"""From fine to coarse."""
COARSEST = "pool"
"""The map that regions are proposed on, but not cut out of."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every place of a map."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LastMapPyramid(nn.Module):
    """Maps at 4, 2, 1, 1/2 and 1/4 times the size of the last map of a plain ViT.

    Args:
        width: of the last map.
        channels: of the pyramid.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        half, quarter = max(1, width // 2), max(1, width // 4)
        ways: list[tuple[list[nn.Module], int]] = [
            (
                [
                    nn.ConvTranspose2d(width, half, 2, 2),
                    ChannelNorm(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ],
                quarter,
            ),
            ([nn.ConvTranspose2d(width, half, 2, 2)], half),
            ([], width),
            ([nn.MaxPool2d(2, ceil_mode=True)], width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *way,
                nn.Conv2d(into, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for way, into in ways
        )

    def forward(self, maps: Maps) -> OrderedDict[str, Float[Tensor, "b c h w"]]:
        """By name `0` to `3`, from fine to coarse, and the coarsest."""
        found = OrderedDict((str(n), level(maps[-1])) for n, level in enumerate(self.levels))
        found[COARSEST] = F.max_pool2d(found["3"], 1, 2)
        return found


class MapsPyramid(nn.Module):
    """A feature pyramid on maps of several sizes.

    Args:
        widths: of the maps.
        channels: of the pyramid.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(widths), channels, extra_blocks=LastLevelMaxPool())

    def forward(self, maps: Maps) -> OrderedDict[str, Float[Tensor, "b c h w"]]:
        """By name `0`, `1` and so on, from fine to coarse, and the coarsest."""
        return self.fpn(OrderedDict((str(n), one) for n, one in enumerate(maps)))


def steps_of(pyramid: OrderedDict[str, Tensor], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Pixels from row to row and from column to column of every map.

    The coarsest lies on every other place of the one before, and its border may be narrower.
    """
    steps = [
        (size[0] / one.shape[2], size[1] / one.shape[3])
        for name, one in pyramid.items()
        if name != COARSEST
    ]
    return [*steps, (2 * steps[-1][0], 2 * steps[-1][1])]
