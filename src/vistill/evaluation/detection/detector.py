"""A backbone of clips that says what each person does: RoIAlign on its tokens (spec amd 11.4).

The final norm is kept, unlike in classification; the tokens are averaged over time, cut out per box
on a 7 × 7 grid whose largest responses a linear layer classifies, one sigmoid per action.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.ops import roi_align

from vistill.augment.hue import color_shift
from vistill.batch import Batch, Losses
from vistill.evaluation.boxed import BoxedBatch
from vistill.evaluation.detection.boxes import clip_boxes, enlarge_boxes, jitter_boxes
from vistill.methods.base import Method
from vistill.methods.side import drop_path_noise
from vistill.models.backbone import Normalization, Tap
from vistill.models.positions import resize_clip_table
from vistill.models.vit import VisionTransformer
from vistill.random import Stream

PIXELS = Normalization(
    (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (57.375 / 255, 57.375 / 255, 57.375 / 255)
)
"""The statistics that the published detectors see pixels in, on the scale of 0 to 1."""
_BINS = 7
_JITTER_STEP = 7919


@dataclass
class DetectionBatch(BoxedBatch):
    """Clips around key frames with the people on them.

    Attributes:
        actions: 1 where the person of a box does the action.
    """

    actions: Float[Tensor, "k c"] | None = None
    of_boxes: ClassVar[tuple[str, ...]] = ("actions",)


def action_loss(logits: Float[Tensor, "k c"], actions: Float[Tensor, "k c"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy times the number of boxes: a sum over people."""
    return F.binary_cross_entropy_with_logits(logits, actions, reduction="sum") / actions.shape[1]


class ActionDetector(Method):
    """Backbone and head; its forward is the training loss.

    Args:
        backbone: takes clips; becomes part of the detector and is trained.
        num_actions: outputs of the head.
        seed: of the head's initial weights.
    """

    student: VisionTransformer

    def __init__(self, backbone: VisionTransformer, num_actions: int, *, seed: int = 0) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(backbone.width, num_actions)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.head.weight, std=2e-5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def feature_map(
        self,
        clips: Float[Tensor, "b 3 t h w"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "b d rows columns"]:
        """Tokens after the final norm, averaged over time; `clips` may have any size in patches."""
        vit = self.student
        rows, columns = (side // vit.patch_size for side in clips.shape[-2:])
        if (rows, columns) == vit.grid:
            norm = Tap("norm", vit.depth)
            tokens = vit.tap(clips, [norm], drop_path_noise=drop_path_noise)[norm]
        else:
            assert vit.pos_embed is not None
            old, new = (vit.slots, *vit.grid), (vit.slots, rows, columns)
            table = resize_clip_table(vit.pos_embed, 0, old, new)
            tokens = functional_call(vit, {"pos_embed": table}, (clips,))
        return tokens.unflatten(1, (-1, rows, columns)).mean(dim=1).permute(0, 3, 1, 2)

    def logits(
        self,
        clips: Float[Tensor, "b 3 t h w"],
        boxes: Float[Tensor, "k 5"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "k c"]:
        """Scores of every box (clip of the batch, x0, y0, x1, y1) in normalised clips."""
        map_ = self.feature_map(clips, drop_path_noise)
        scale = 1 / self.student.patch_size
        # Sampling ratio 0 adapts to the box; whole-pixel alignment is what the authors used.
        regions = roi_align(map_, boxes.to(map_.dtype), (_BINS, _BINS), scale, 0, aligned=False)
        return self.head(regions.amax(dim=(2, 3)))

    def detect(
        self, clips: Float[Tensor, "b 3 t h w"], boxes: Float[Tensor, "k 5"]
    ) -> Float[Tensor, "k c"]:
        """Scores of detected people, whose boxes are enlarged a little."""
        return self.logits(clips, within(enlarge_boxes(boxes[:, 1:]), boxes, clips))

    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, DetectionBatch)
        assert batch.boxes is not None
        assert batch.actions is not None
        pixels = color_shift(batch.unit_pixels(), batch.seeds)
        clips = PIXELS(pixels)
        owner = batch.boxes[:, 0].contiguous()
        number = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
        seeds = batch.seeds[owner.long()] + _JITTER_STEP * number
        boxes = within(jitter_boxes(batch.boxes[:, 1:], seeds), batch.boxes, clips)
        noise = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        logits = self.logits(clips, boxes, noise)
        loss = action_loss(logits.to(batch.actions.dtype), batch.actions)
        return Losses(loss, {"actions": loss.detach()})


def within(
    moved: Float[Tensor, "k 4"], boxes: Float[Tensor, "k 5"], clips: Float[Tensor, "b 3 t h w"]
) -> Float[Tensor, "k 5"]:
    """`boxes` at their new place, cut at the border of the clips."""
    return torch.cat([boxes[:, :1], clip_boxes(moved, *clips.shape[-2:])], dim=1)
