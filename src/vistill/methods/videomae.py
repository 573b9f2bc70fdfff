"""VideoMAE (Tong et al., arXiv 2203.12602; spec amd 4, 6-8): baseline, and maker of teachers."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vistill.heads.hidden_decoder import HiddenDecoder
from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses.distances import mse
from vistill.losses.reconstruction import normalize_cubes, normalize_patches
from vistill.methods.base import Ingredients, Method, TrainedModule
from vistill.methods.mae import DECODER
from vistill.methods.side import drop_path_noise, rising
from vistill.models.backbone import Tap
from vistill.models.positions import sincos_1d, sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.views.masking import NestedMask, Sight, clip_sight, gather_tokens
from vistill.views.noise import Stream, per_sample_uniform
from vistill.views.patches import channels_last, patchify


class Painting(NamedTuple):
    """Painted and true values of the hidden tokens, and their mean squared error."""

    prediction: Float[Tensor, "b h p"]
    target: Float[Tensor, "b h p"]
    loss: Float[Tensor, ""]


def fixed_positions(student: VisionTransformer, width: int) -> Float[Tensor, "1 n d"]:
    """The sine-cosine table of `student`'s tokens at another width, in fp32.

    Raises:
        UserError: a picture's table needs a width divisible by 4.
    """
    if student.tubelet_size is not None:
        return sincos_1d(width, student.num_prefix_tokens + student.num_patches).float()
    try:
        return sincos_2d(width, student.grid, student.num_prefix_tokens).float()
    except ValueError as error:
        raise UserError(str(error)) from error


class HiddenPainter(nn.Module):
    """Decoder and pixel target of masked clips (and, for AMD, of masked pictures).

    Clips are painted in [0, 1], normalised per channel of each cube; pictures as MAE does it.

    Args:
        student: encoder whose normed tokens are decoded.
        decoder: `embed_dim`, `depth`, `num_heads`; None or missing: half the student's width, 4
            blocks and 64 channels a head for clips, MAE's for pictures.
        norm_pixels: whether targets are normalised by their own statistics.

    Raises:
        UserError: the sizes do not go together.
    """

    def __init__(
        self, student: VisionTransformer, decoder: Mapping[str, int | None], norm_pixels: bool
    ) -> None:
        super().__init__()
        self.patch_size, self.tubelet_size = student.patch_size, student.tubelet_size
        self.norm_pixels = norm_pixels
        clips = student.tubelet_size is not None
        given = {name: value for name, value in decoder.items() if value is not None}
        sizes = ({"embed_dim": student.width // 2, "depth": 4} if clips else DECODER) | given
        width = sizes["embed_dim"]
        heads = sizes.get("num_heads", max(1, width // 64))
        if width % heads:
            raise UserError(f"a decoder of width {width} cannot be split into {heads} heads")
        self.decoder = HiddenDecoder(
            student.width,
            sizes["depth"],
            heads,
            positions=fixed_positions(student, width),
            num_prefix=student.num_prefix_tokens,
            out_dim=3 * (student.tubelet_size or 1) * student.patch_size**2,
            embed_bias=not clips,
            qkv_bias="no_key" if clips else "all",
            mlp_ratio=student.mlp_ratio,
        )

    def forward(
        self,
        latent: Float[Tensor, "b n d"],
        pixels: Float[Tensor, "b 3 *size"],
        images: Float[Tensor, "b 3 *size"],
        mask: NestedMask,
    ) -> Painting:
        """Paint what is hidden.

        Args:
            latent: normed encoder tokens, prefix first.
            pixels: in [0, 1].
            images: the same, normalised for the student.
            mask: what is hidden.
        """
        target = self.target(images if self.tubelet_size is None else pixels, mask)
        prediction = self.decoder(latent, mask.visible, mask.hidden)
        return Painting(prediction, target, mse(prediction, target))

    def target(self, pixels: Float[Tensor, "b 3 *size"], mask: NestedMask) -> Tensor:
        """What the hidden tokens should be painted as."""
        patches = gather_tokens(patchify(pixels, self.patch_size, self.tubelet_size), mask.hidden)
        if self.norm_pixels and self.tubelet_size is not None:
            patches = normalize_cubes(patches.unflatten(2, (3, -1))).flatten(2)
        elif self.norm_pixels:
            patches = normalize_patches(patches)
        return channels_last(patches)


class TrainedOnSight(TrainedModule):
    """A student that sees a part of the tokens, and what is trained beside it.

    Args:
        student: the encoder.
        sight: what is seen.
    """

    student: VisionTransformer
    no_decay = ("mask_token",)

    def __init__(self, student: VisionTransformer, sight: Sight) -> None:
        super().__init__()
        self.student, self.sight = student, sight


class TrainedVideoMAE(TrainedOnSight):
    """Encoder on visible tokens, decoder, reconstruction loss."""

    def __init__(
        self,
        student: VisionTransformer,
        sight: Sight,
        decoder: Mapping[str, int | None],
        norm_pixels: bool,
    ) -> None:
        super().__init__(student, sight)
        self.painter = HiddenPainter(student, decoder, norm_pixels)

    def reconstruct(
        self,
        pixels: Float[Tensor, "b 3 t h w"],
        noise: Float[Tensor, "b n"],
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Painting:
        """Mask clips in [0, 1] by `noise`, encode what is left, paint the rest."""
        images, mask = self.student.normalization(pixels), self.sight.mask(noise)
        tap = Tap("norm", self.student.depth)
        latent = self.student.tap(
            images, [tap], visible=mask.visible, drop_path_noise=drop_path_noise
        )[tap]
        return self.painter(latent, pixels, images, mask)

    def forward(self, batch: Batch, targets: Any) -> Losses:
        noise = per_sample_uniform(batch.seeds, self.sight.positions, Stream.MASK)
        drops = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        loss = self.reconstruct(batch.unit_pixels(), noise, drops).loss
        return Losses(loss, {"reconstruction": loss.detach()})


class VideoMAE(Method):
    """Hide most tubes of a clip, encode the others, paint what is hidden; no teacher.

    Args:
        student: the encoder; a ViT of clips.
        mask: `tube` hides the same places in all frames, `random` chooses among all tokens.
        mask_ratio: share of hidden tokens.
        norm_pixels: normalise each channel of each target cube.
        decoder: `embed_dim`, `depth`, `num_heads`, see `HiddenPainter`.

    Raises:
        UserError: nothing would be visible, or sizes do not go together.
    """

    def __init__(
        self,
        student: VisionTransformer,
        *,
        mask: Literal["tube", "random"] = "tube",
        mask_ratio: float = 0.9,
        norm_pixels: bool = True,
        decoder: Mapping[str, int | None] | None = None,
    ) -> None:
        positions = student.grid[0] * student.grid[1]
        sight = clip_sight(student.slots, positions, mask_ratio, tube=mask == "tube")
        check_sight(sight, "method.mask_ratio", mask_ratio)
        super().__init__(TrainedVideoMAE(student, sight, decoder or {}, norm_pixels))


def check_sight(sight: Sight, setting: str, mask_ratio: float) -> None:
    """Raise a UserError if no token would stay visible, or none would be hidden."""
    if not 1 <= sight.visible < sight.positions:
        what = "none" if sight.visible < 1 else "all"
        raise UserError(
            f"{setting}={mask_ratio} leaves {what} of {sight.positions} patches visible; "
            "choose another, or take a smaller student.patch_size"
        )


def build_videomae(given: Ingredients) -> VideoMAE:
    """VideoMAE from a configuration.

    Raises:
        UserError: the student is no ViT of clips, or leaves too few tokens.
    """
    student = given.student
    if not isinstance(student, VisionTransformer) or student.tubelet_size is None:
        raise UserError(
            "videomae needs a plain ViT student of clips: set data.frames (for pictures there is "
            "mae)"
        )
    if given.student_drop_path:
        student.set_drop_path(rising(given.student_drop_path, student.depth))
    return VideoMAE(student, **given.options)
