"""The light decoder that paints hidden patches from visible tokens (MAE, section 3; spec 2.1)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.losses.reconstruction import masked_mse, normalize_patches
from vistill.models.layers import LAYER_NORM_EPS, Block, BlockParts
from vistill.models.positions import sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import Mask, gather_tokens
from vistill.tokens.patches import pixel_patches


class PixelDecoder(nn.Module):
    """Tokens of the visible patches in, pixels of all patches out.

    Args:
        encoder_dim: width of the incoming tokens.
        embed_dim: the decoder's own width.
        depth: number of blocks.
        num_heads: heads per block.
        grid: rows and columns of patches.
        patch_dim: numbers per painted patch.
        parts: of its blocks, as the encoder's.
    """

    def __init__(
        self,
        encoder_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        grid: tuple[int, int],
        patch_dim: int,
        parts: BlockParts,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_2d(embed_dim, grid, 1).float(), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, **parts._asdict()) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.pred = nn.Linear(embed_dim, patch_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, latent: Float[Tensor, "b n d"], restore: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l p"]:
        """Paint every patch.

        Args:
            latent: class token and visible tokens, in the mask's order.
            restore: position of every patch in (visible, then hidden) order.
        """
        x = self.embed(latent)
        visible = x[:, 1:]
        missing = restore.shape[1] - visible.shape[1]
        mask_tokens = self.mask_token.to(x.dtype).expand(x.shape[0], missing, -1)
        patches = gather_tokens(torch.cat([visible, mask_tokens], dim=1), restore)
        x = torch.cat([x[:, :1], patches], dim=1) + self.pos_embed.to(x.dtype)
        for block in self.blocks:
            x, _ = block(x)
        return self.pred(self.norm(x)[:, 1:])


class Reconstruction(NamedTuple):
    """Painted and true patches, and the mean squared error of the hidden ones."""

    prediction: Float[Tensor, "b l p"]
    target: Float[Tensor, "b l p"]
    loss: Float[Tensor, ""]


class Painter(nn.Module):
    """The decoder and its pixel target: what MAE adds to an encoder.

    Args:
        encoder: whose normed tokens are decoded; needs a class token.
        sizes: `embed_dim`, `depth`, `num_heads` of the decoder.
        norm_pixels: whether each target patch is normalised by its own statistics.
    """

    def __init__(
        self, encoder: VisionTransformer, sizes: Mapping[str, int], norm_pixels: bool
    ) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        self.norm_pixels = norm_pixels
        self.decoder = PixelDecoder(
            encoder.width,
            **sizes,
            grid=encoder.grid,
            patch_dim=3 * encoder.patch_size**2,
            parts=encoder.parts,
        )

    def forward(
        self, latent: Float[Tensor, "b n d"], images: Float[Tensor, "b 3 h w"], mask: Mask
    ) -> Reconstruction:
        """Paint every patch of normalised `images` from the tokens that `mask` left visible."""
        target = pixel_patches(images, self.patch_size)
        if self.norm_pixels:
            target = normalize_patches(target)
        prediction = self.decoder(latent, mask.restore)
        return Reconstruction(prediction, target, masked_mse(prediction, target, mask.hidden))
