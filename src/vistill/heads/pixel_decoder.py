"""The light decoder that paints hidden patches from visible tokens (MAE, section 3; spec 2.1)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.heads.hidden_decoder import beside_mask_tokens
from vistill.heads.hidden_painter import Painting
from vistill.losses.distances import mse
from vistill.losses.reconstruction import normalize_patches
from vistill.models.layers import LAYER_NORM_EPS, Block, BlockParts, through
from vistill.models.positions import sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import Mask, gather_tokens
from vistill.tokens.patches import pixel_patches


class PixelDecoder(nn.Module):
    """Tokens of the visible patches in, pixels of the hidden ones out.

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
        self,
        latent: Float[Tensor, "b n d"],
        visible: Int[Tensor, "b v"],
        hidden: Int[Tensor, "b h"],
    ) -> Float[Tensor, "b h p"]:
        """Paint the hidden patches.

        Args:
            latent: class token, then the tokens of `visible`.
            visible, hidden: patch indices.
        """
        x = beside_mask_tokens(
            self.embed(latent), self.mask_token, self.pos_embed, 1, visible, hidden
        )
        painted = through(self.blocks, x, slice(x.shape[1] - hidden.shape[1], None))
        return self.pred(self.norm(painted))


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
    ) -> Painting:
        """Paint what `mask` hides of normalised `images` from the tokens that it left visible."""
        target = gather_tokens(pixel_patches(images, self.patch_size), mask.hidden)
        if self.norm_pixels:
            target = normalize_patches(target)
        prediction = self.decoder(latent, mask.visible, mask.hidden)
        return Painting(prediction, target, mse(prediction, target))
