"""torchvision's Faster and Mask R-CNN on a pyramid of maps (Ren et al., arXiv 1506.01497; He et
al., arXiv 1703.06870), whose draws come from the seeds of pictures and whose steps are exact."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from vistill.heads.pyramids import COARSEST, ChannelNorm, steps_of
from vistill.random import Stream, per_sample_uniform

_ASPECTS = (0.5, 1.0, 2.0)
_LEVEL = 2
_CANONICAL = 56
"""Steps of the finest map in the side of a region that is cut out of the third one: 224 of 4."""
_SIDE = 7
"""Places on each side of a region that is cut out; where its shape is asked for twice as many."""
_HIDDEN = 4
"""Width of the linear layers, in widths of the pyramid (published: 1024 of 256)."""


class SeededSampler:
    """Which of the positives and negatives are learned from; torchvision's sampler with draws that
    come from a picture's seed, so that neither ranks nor micro-batches change them.

    Args:
        count: at most so many of a picture.
        share: of them positive, at most.
        stream: of the draws.

    Attributes:
        seed: `[1]`, of the picture.
    """

    seed: Int[Tensor, "1"]

    def __init__(self, count: int, share: float, stream: Stream) -> None:
        self.count, self.share, self.stream = count, share, stream

    def __call__(self, matched: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (labels,) = matched
        draws = per_sample_uniform(self.seed, len(labels), self.stream)[0]
        positive, negative = labels >= 1, labels == 0
        most = min(int(positive.sum()), int(self.count * self.share))
        found = [_drawn(positive, draws, most), _drawn(negative, draws, self.count - most)]
        return [found[0]], [found[1]]


def _drawn(allowed: Tensor, draws: Tensor, count: int) -> Tensor:
    """Those of the allowed with the lowest draws, as torchvision's masks."""
    places = allowed.nonzero()[:, 0]
    chosen = places[draws[places].argsort(stable=True)[:count]]
    mask = torch.zeros_like(allowed, dtype=torch.uint8)
    mask[chosen] = 1
    return mask


class Anchors(AnchorGenerator):
    """Anchors with a side of so many steps of their map, in three shapes.

    torchvision divides whole numbers where a size is no multiple of the map's, so that anchors
    leave their places.

    Args:
        steps: from row to row and from column to column, in pixels, of every map.
        side: in steps.
    """

    def __init__(self, steps: Sequence[tuple[float, float]], side: float) -> None:
        sizes = tuple((side * math.sqrt(rows * columns),) for rows, columns in steps)
        super().__init__(sizes, (_ASPECTS,) * len(sizes))
        self.steps = steps

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(maps[0].dtype, maps[0].device)
        found = self.grid_anchors([list(one.shape[-2:]) for one in maps], self.steps)
        return [torch.cat(found)] * len(images.image_sizes)


class RegionHeads(nn.Module):
    """Proposes regions, and tells class, box and shape of what is in them.

    Args:
        pyramid: of a blank picture; says names and sizes of maps.
        size: height and width of pictures.
        num_classes: without the background, which is 0.
        anchors: side of anchors, in steps of their map.
        regions: that are learned from, of every picture; four times as many are proposed, in tests
            twice as many.
        convolutional: ViTDet's heads instead of Faster R-CNN's.
        masks: tell shapes, too.
        least_score: of what is found.
    """

    def __init__(
        self,
        pyramid: OrderedDict[str, Tensor],
        size: tuple[int, int],
        num_classes: int,
        *,
        anchors: float,
        regions: int,
        convolutional: bool,
        masks: bool,
        least_score: float,
    ) -> None:
        super().__init__()
        steps = steps_of(pyramid, size)
        names = [name for name in pyramid if name != COARSEST]
        channels = pyramid[names[0]].shape[1]
        body = nn.Module()
        body.out_channels = channels  # type: ignore[assignment]
        told: dict[str, Any] = {
            "rpn_anchor_generator": Anchors(steps, anchors),
            "box_roi_pool": _pool(names, steps, _SIDE),
            "box_score_thresh": least_score,
        }
        for part, most in (("train", 4 * regions), ("test", 2 * regions)):
            told |= {f"rpn_{when}_nms_top_n_{part}": most for when in ("pre", "post")}
        norm, hidden = ChannelNorm if convolutional else None, _HIDDEN * channels
        told["box_head"] = TwoMLPHead(channels * _SIDE**2, hidden)
        if convolutional:
            told["rpn_head"] = RPNHead(channels, len(_ASPECTS), conv_depth=2)
            told["box_head"] = FastRCNNConvFCHead(
                (channels, _SIDE, _SIDE), [channels] * 4, [hidden], norm_layer=norm
            )
        told["box_predictor"] = FastRCNNPredictor(hidden, num_classes + 1)
        if masks:
            told["mask_roi_pool"] = _pool(names, steps, 2 * _SIDE)
            told["mask_head"] = MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm)
            told["mask_predictor"] = MaskRCNNPredictor(channels, channels, num_classes + 1)
        net: Any = (MaskRCNN if masks else FasterRCNN)(body, **told)
        self.rpn, self.roi_heads = net.rpn, net.roi_heads
        self.rpn.fg_bg_sampler = SeededSampler(256, 0.5, Stream.ANCHORS)
        self.roi_heads.fg_bg_sampler = SeededSampler(regions, 0.25, Stream.REGIONS)
        self.size = size

    def losses(
        self,
        pyramid: Mapping[str, Float[Tensor, "1 c h w"]],
        seen: tuple[int, int],
        things: Mapping[str, Tensor],
        seed: Int[Tensor, "1"],
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of one picture, by torchvision's names.

        Args:
            pyramid: of the picture.
            seen: height and width of what is no padding.
            things: `boxes`, `labels` and `masks` as torchvision's targets.
            seed: of the picture.
        """
        self.rpn.fg_bg_sampler.seed = self.roi_heads.fg_bg_sampler.seed = seed
        images = self._images(pyramid, seen)
        proposals, found = self.rpn(images, pyramid, [things])
        _, more = self.roi_heads(pyramid, proposals, images.image_sizes, [things])
        return {**found, **more}

    def found(
        self, pyramid: Mapping[str, Float[Tensor, "1 c h w"]], seen: tuple[int, int]
    ) -> dict[str, Tensor]:
        """`boxes`, `labels`, `scores` and `masks` (of 28 × 28 in their boxes) of one picture."""
        images = self._images(pyramid, seen)
        proposals, _ = self.rpn(images, pyramid)
        (found,), _ = self.roi_heads(pyramid, proposals, images.image_sizes)
        return found

    def _images(self, pyramid: Mapping[str, Tensor], seen: tuple[int, int]) -> ImageList:
        # Only its shape is asked for.
        return ImageList(pyramid["0"].new_empty(1).expand(1, 3, *self.size), [seen])


def _pool(
    names: Sequence[str], steps: Sequence[tuple[float, float]], side: int
) -> MultiScaleRoIAlign:
    """Cuts regions out of maps of known steps, which torchvision would guess from the first picture
    that it sees, as powers of two."""
    made = MultiScaleRoIAlign(list(names), side, 2)
    fine = math.sqrt(steps[0][0] * steps[0][1])
    made.scales = [1 / math.sqrt(rows * columns) for rows, columns in steps[: len(names)]]
    made.map_levels = LevelMapper(_LEVEL, _LEVEL + len(names) - 1, _CANONICAL * fine, _LEVEL + 2)
    return made
