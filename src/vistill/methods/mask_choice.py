"""What stays visible of every clip, as UMT draws it (section 3.1; spec umt 3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.config.umt import AlignmentSection
from vistill.methods.videomae import check_mask_sizes
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.masks import clip_mask_sizes
from vistill.tokens.semantic import exponential, frame_visible, of_clip, sampling_order


class MaskChoice:
    """See `AlignmentSection` for the switches.

    Args:
        config: the switches.
        mask_ratio: share that is hidden.
        setting: the name of that ratio.
        slots: time slots of the student's tokens.
        positions: tokens of each.
        masks: that are drawn for each clip.

    Raises:
        UserError: nothing, or everything, would be visible.
    """

    def __init__(
        self,
        config: AlignmentSection,
        mask_ratio: float,
        setting: str,
        slots: int,
        positions: int,
        masks: int = 1,
    ) -> None:
        self.mask, self.masks = config.mask, masks
        tube = config.mask != "random"
        self.sizes = clip_mask_sizes(slots, positions, mask_ratio, tube=tube)
        if config.mask in ("semantic", "attention"):
            self.sizes = self.sizes._replace(visible=frame_visible(positions, mask_ratio))
        if config.mask != "none":
            check_mask_sizes(self.sizes, setting, mask_ratio)

    def __call__(
        self, batch: Batch, importance: Float[Tensor, "b s n"] | None
    ) -> Int[Tensor, "b v"] | None:
        """Tokens that stay visible, by all masks one after the other; None: everything."""
        if self.mask == "none":
            return None
        if importance is None:
            drawn = per_sample_uniform(
                batch.view_seeds, self.masks * self.sizes.positions, Stream.MASK
            )
            chosen = self.sizes.mask(drawn.reshape(-1, self.sizes.positions)).visible
            return chosen.reshape(len(batch), -1)
        _, slots, positions = importance.shape
        drawn = per_sample_uniform(batch.view_seeds, self.masks * slots * positions, Stream.MASK)
        noise = exponential(drawn).reshape(-1, self.masks, slots, positions)
        noise = noise if self.mask == "semantic" else torch.ones_like(noise)
        order = sampling_order(importance[:, None], noise)[..., : self.sizes.visible]
        return of_clip(order.flatten(0, 1), positions).reshape(len(batch), -1)
