"""Decoder and pixel target of VideoMAE and AMD: what is hidden of a clip (or picture) is painted
(spec amd 6, 7)."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.heads.hidden_decoder import HiddenDecoder
from vistill.losses.distances import mse
from vistill.losses.reconstruction import normalize_cubes, normalize_patches
from vistill.models.positions import sincos_1d, sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.nearest import no_split
from vistill.tokens.masks import NestedMask, gather_tokens
from vistill.tokens.patches import channels_last, patchify

MAE_DECODER = {"embed_dim": 512, "depth": 8, "num_heads": 16}


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
        sizes: `embed_dim`, `depth`, `num_heads` of the decoder; None or missing: half the student's
            width, 4 blocks and 64 channels a head for clips, MAE's for pictures.
        norm_pixels: whether targets are normalised by their own statistics.

    Raises:
        UserError: the sizes do not go together.
    """

    def __init__(
        self, student: VisionTransformer, sizes: Mapping[str, int | None], norm_pixels: bool
    ) -> None:
        super().__init__()
        self.patch_size, self.tubelet_size = student.patch_size, student.tubelet_size
        self.norm_pixels = norm_pixels
        clips = student.tubelet_size is not None
        given = {name: value for name, value in sizes.items() if value is not None}
        usual = {"embed_dim": student.width // 2, "depth": 4} if clips else MAE_DECODER
        chosen = usual | given
        width = chosen["embed_dim"]
        heads = chosen.get("num_heads", max(1, width // 64))
        if width % heads:
            raise UserError(f"of the decoder, {no_split(width, heads)}")
        self.decoder = HiddenDecoder(
            student.width,
            chosen["depth"],
            heads,
            positions=fixed_positions(student, width),
            num_prefix=student.num_prefix_tokens,
            out_dim=3 * (student.tubelet_size or 1) * student.patch_size**2,
            embed_bias=not clips,
            parts=student.parts,
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
