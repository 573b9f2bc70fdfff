"""Masked autoencoder (He et al., arXiv 2111.06377; spec 2): baseline and teacher factory."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vistill.heads.pixel_decoder import PixelDecoder
from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses.reconstruction import masked_mse, normalize_patches
from vistill.methods.base import Ingredients, Method, TrainedModule
from vistill.methods.side import drop_path_noise
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer
from vistill.views.masking import Mask, random_mask
from vistill.views.noise import Stream, per_sample_uniform
from vistill.views.patches import pixel_patches

DECODER = {"embed_dim": 512, "depth": 8, "num_heads": 16}


class Reconstruction(NamedTuple):
    """One MAE forward pass: normed encoder tokens, painted and true patches, loss."""

    latent: Float[Tensor, "b n d"]
    prediction: Float[Tensor, "b l p"]
    target: Float[Tensor, "b l p"]
    mask: Mask
    loss: Float[Tensor, ""]


class Painter(nn.Module):
    """The decoder and its pixel target: what MAE adds to an encoder.

    Args:
        student: encoder whose normed tokens are decoded; needs a class token.
        decoder: `embed_dim`, `depth`, `num_heads` of the decoder.
        norm_pixels: whether each target patch is normalised by its own statistics.
    """

    def __init__(
        self, student: VisionTransformer, decoder: dict[str, int], norm_pixels: bool
    ) -> None:
        super().__init__()
        self.patch_size = student.patch_size
        self.norm_pixels = norm_pixels
        self.decoder = PixelDecoder(
            student.width,
            **decoder,
            grid=student.grid,
            patch_dim=3 * student.patch_size**2,
            mlp_ratio=student.mlp_ratio,
        )

    def forward(
        self, latent: Float[Tensor, "b n d"], images: Float[Tensor, "b 3 h w"], mask: Mask
    ) -> Reconstruction:
        target = pixel_patches(images, self.patch_size)
        if self.norm_pixels:
            target = normalize_patches(target)
        prediction = self.decoder(latent, mask.restore)
        loss = masked_mse(prediction, target, mask.hidden)
        return Reconstruction(latent, prediction, target, mask, loss)


class TrainedMAE(TrainedModule):
    """Encoder on visible patches, decoder, reconstruction loss."""

    student: VisionTransformer

    def __init__(
        self,
        student: VisionTransformer,
        mask_ratio: float,
        norm_pixels: bool,
        decoder: dict[str, int],
    ) -> None:
        super().__init__()
        self.student = student
        self.painter = Painter(student, decoder, norm_pixels)
        self.mask_ratio = mask_ratio

    def reconstruct(
        self,
        images: Float[Tensor, "b 3 h w"],
        noise: Float[Tensor, "b l"],
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Reconstruction:
        """Mask normalised `images` by `noise`, encode what is left, paint the rest."""
        mask = random_mask(noise, self.mask_ratio)
        tap = Tap("norm", self.student.depth)
        latent = self.student.tap(
            images, [tap], visible=mask.visible, drop_path_noise=drop_path_noise
        )[tap]
        return self.painter(latent, images, mask)

    def forward(self, batch: Batch, targets: Any) -> Losses:
        images = self.student.normalization(batch.unit_pixels())
        noise = per_sample_uniform(batch.seeds, self.student.num_patches, Stream.MASK)
        drops = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        loss = self.reconstruct(images, noise, drops).loss
        return Losses(loss, {"reconstruction": loss.detach()})


class MAE(Method):
    """Hide most patches, encode the others, paint what is hidden; no teacher.

    Args:
        student: the encoder; a ViT with a class token.
        mask_ratio: share of hidden patches.
        norm_pixels: normalise each target patch.
        decoder: `embed_dim`, `depth`, `num_heads`.
    """

    def __init__(
        self,
        student: VisionTransformer,
        *,
        mask_ratio: float = 0.75,
        norm_pixels: bool = True,
        decoder: dict[str, int] | None = None,
    ) -> None:
        super().__init__(TrainedMAE(student, mask_ratio, norm_pixels, decoder or DECODER))


def build_mae(given: Ingredients) -> MAE:
    """MAE from a configuration.

    Raises:
        UserError: if the student cannot be masked or leaves too few patches.
    """
    student = given.student
    if not isinstance(student, VisionTransformer) or not student.num_prefix_tokens:
        raise UserError("mae needs a plain ViT student with a class token")
    if given.student_drop_path:
        student.set_drop_path(given.student_drop_path)
    check_mask_ratio(student, given.options.get("mask_ratio", 0.75))
    return MAE(student, **given.options)


def check_mask_ratio(student: VisionTransformer, mask_ratio: float) -> None:
    """Raise a UserError if no patch of a picture would stay visible."""
    if int(student.num_patches * (1 - mask_ratio)) < 1:
        raise UserError(
            f"method.mask_ratio={mask_ratio} leaves none of the {student.num_patches} patches "
            "visible; lower it, or take a smaller student.patch_size"
        )
