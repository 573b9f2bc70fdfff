"""VideoMAE (Tong et al., arXiv 2203.12602; spec amd 4, 6-8): baseline, and maker of teachers.

Hide most tubes of a clip, encode the others, paint what is hidden; no teacher.
"""

from typing import Self

from jaxtyping import Int
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.config.clip_methods import VideoMAEConfig
from vistill.errors import UserError
from vistill.heads.hidden_painter import HiddenPainter, Painting
from vistill.methods.base import Method, weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.side import rising
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.masks import MaskSizes, NestedMask, clip_mask_sizes


class VideoMAE(Method):
    """See `VideoMAEConfig` for the switches.

    Args:
        student: the encoder; a plain ViT of clips.
        config: the switches.
        drop_path: rate of the last block, rising linearly from 0 in the first.

    Raises:
        UserError: the student takes no clips, nothing would be visible, or sizes do not fit.
    """

    student: VisionTransformer
    no_decay = ("mask_token",)

    def __init__(
        self, student: Backbone, config: VideoMAEConfig | None = None, *, drop_path: float = 0.0
    ) -> None:
        super().__init__(student)
        self.config = config = config or VideoMAEConfig()
        if not isinstance(student, VisionTransformer) or student.tubelet_size is None:
            raise UserError(
                "videomae needs a plain ViT student of clips: set data.frames (for pictures there "
                "is mae)"
            )
        positions = student.grid[0] * student.grid[1]
        tube = config.mask == "tube"
        self.mask_sizes = clip_mask_sizes(student.slots, positions, config.mask_ratio, tube=tube)
        check_mask_sizes(self.mask_sizes, "method.mask_ratio", config.mask_ratio)
        self.painter = HiddenPainter(student, config.decoder.model_dump(), config.norm_pixels)
        self.ours.drop_path(rising(drop_path, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        return cls(given.student, given.config, drop_path=given.student_drop_path or 0.0)

    def mask(self, batch: Batch) -> NestedMask:
        """Which tokens of every sample are hidden."""
        return drawn_mask(self.mask_sizes, batch.seeds)

    def reconstruct(self, batch: Batch, mask: NestedMask) -> Painting:
        """Encode what `mask` leaves visible and paint the rest."""
        images, norm = self.ours.images(batch), self.ours.tap("norm")
        found = self.ours.see(batch, [norm], visible=mask.visible, images=images)
        return self.painter(found[norm], batch.unit_pixels(), images, mask)

    def forward(self, batch: Batch) -> Losses:
        return weighted({"reconstruction": (1.0, self.reconstruct(batch, self.mask(batch)).loss)})


def drawn_mask(sizes: MaskSizes, seeds: Int[Tensor, " b"]) -> NestedMask:
    """What is seen of every sample, drawn from its seed."""
    return sizes.mask(per_sample_uniform(seeds, sizes.positions, Stream.MASK))


def check_mask_sizes(sizes: MaskSizes, setting: str, mask_ratio: float) -> None:
    """Raise a UserError if no token would stay visible, or none would be hidden."""
    if not 1 <= sizes.visible < sizes.positions:
        what = "none" if sizes.visible < 1 else "all"
        raise UserError(
            f"{setting}={mask_ratio} leaves {what} of {sizes.positions} patches visible; "
            "choose another, or take a smaller student.patch_size"
        )
