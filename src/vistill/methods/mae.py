"""Masked autoencoder (He et al., arXiv 2111.06377; spec 2): baseline and teacher factory.

Hide most patches of a picture, encode the others, paint what is hidden; no teacher.
"""

from typing import Self

from jaxtyping import Int
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.config.methods import MAEConfig
from vistill.errors import UserError
from vistill.heads.hidden_painter import Painting
from vistill.heads.pixel_decoder import Painter
from vistill.methods.base import Method, weighted
from vistill.methods.ingredients import Ingredients
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.masks import Mask, random_mask


class MAE(Method):
    """See `MAEConfig` for the switches.

    Args:
        student: the encoder; a plain ViT with a class token.
        config: the switches.
        drop_path: constant rate of the encoder's blocks.

    Raises:
        UserError: the student cannot be masked, or no patch would be left.
    """

    student: VisionTransformer

    def __init__(
        self, student: Backbone, config: MAEConfig | None = None, *, drop_path: float = 0.0
    ) -> None:
        super().__init__(student)
        self.config = config = config or MAEConfig()
        if not isinstance(student, VisionTransformer) or not student.num_prefix_tokens:
            raise UserError("mae needs a plain ViT student with a class token")
        check_mask_ratio(student, config.mask_ratio)
        self.ours.drop_path([drop_path] * student.depth)
        self.painter = Painter(student, config.decoder.model_dump(), config.norm_pixels)

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        return cls(given.student, given.config, drop_path=given.student_drop_path or 0.0)

    def mask(self, batch: Batch) -> Mask:
        """Which patches of every sample are hidden."""
        return picture_mask(self.student, batch.seeds, self.config.mask_ratio)

    def reconstruct(self, batch: Batch, mask: Mask) -> Painting:
        """Encode what `mask` leaves visible and paint the rest."""
        images = self.ours.images(batch)
        norm = self.ours.tap("norm")
        found = self.ours.see(batch, [norm], visible=mask.visible, images=images)
        return self.painter(found[norm], images, mask)

    def forward(self, batch: Batch) -> Losses:
        painted = self.reconstruct(batch, self.mask(batch))
        return weighted({"reconstruction": (1.0, painted.loss)})


def picture_mask(student: VisionTransformer, seeds: Int[Tensor, " b"], mask_ratio: float) -> Mask:
    """MAE's mask of every sample, drawn from its seed."""
    noise = per_sample_uniform(seeds, student.num_patches, Stream.MASK)
    return random_mask(noise, mask_ratio)


def check_mask_ratio(student: VisionTransformer, mask_ratio: float) -> None:
    """Raise a UserError if no patch of a picture would stay visible."""
    if int(student.num_patches * (1 - mask_ratio)) < 1:
        raise UserError(
            f"method.mask_ratio={mask_ratio} leaves none of the {student.num_patches} patches "
            "visible; lower it, or take a smaller student.patch_size"
        )
