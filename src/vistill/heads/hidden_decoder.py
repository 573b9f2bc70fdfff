"""The light decoder of VideoMAE, which paints hidden tokens only (spec amd 6); for clips as
published, for pictures with MAE's parts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.models.layers import LAYER_NORM_EPS, Block, BlockParts, through


class HiddenDecoder(nn.Module):
    """Visible tokens in, values of the hidden ones out.

    Args:
        encoder_dim: width of the incoming tokens.
        depth: number of blocks.
        num_heads: heads per block.
        positions: fixed table `[1, P + L, D]`, one row per prefix token and patch; its width is
            the decoder's.
        num_prefix: prefix tokens P of the encoder, which are decoded along.
        out_dim: numbers per painted token.
        embed_bias: whether the embedding has a bias (MAE's has).
        parts: of its blocks, as the encoder's.
    """

    pos_embed: Tensor

    def __init__(
        self,
        encoder_dim: int,
        depth: int,
        num_heads: int,
        *,
        positions: Float[Tensor, "1 n d"],
        num_prefix: int,
        out_dim: int,
        embed_bias: bool,
        parts: BlockParts,
    ) -> None:
        super().__init__()
        width = positions.shape[2]
        self.num_prefix = num_prefix
        self.embed = nn.Linear(encoder_dim, width, bias=embed_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, **parts._asdict()) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.pred = nn.Linear(width, out_dim)
        initialize(self)
        if not embed_bias:
            self.embed.reset_parameters()  # VideoMAE leaves this one to torch

    def forward(
        self,
        latent: Float[Tensor, "b n d"],
        visible: Int[Tensor, "b v"],
        hidden: Int[Tensor, "b h"],
    ) -> Float[Tensor, "b h p"]:
        """Paint the hidden tokens.

        Args:
            latent: prefix tokens, then those of `visible`.
            visible, hidden: patch indices.
        """
        x = beside_mask_tokens(
            self.embed(latent), self.mask_token, self.pos_embed, self.num_prefix, visible, hidden
        )
        painted = through(self.blocks, x, slice(x.shape[1] - hidden.shape[1], None))
        return self.pred(self.norm(painted))


def beside_mask_tokens(
    tokens: Float[Tensor, "b n d"],
    mask_token: Float[Tensor, "1 1 d"],
    positions: Float[Tensor, "1 m d"],
    num_prefix: int,
    visible: Int[Tensor, "b v"],
    missing: Int[Tensor, "b h"],
) -> Float[Tensor, "b k d"]:
    """Known tokens, then a mask token for every missing one, each with its position.

    Args:
        tokens: prefix tokens, then those of `visible`.
        mask_token: stands for every missing token.
        positions: one row per prefix token and patch.
        num_prefix: prefix tokens.
        visible, missing: patch indices.
    """
    table = positions[0].to(tokens.dtype)
    prefix = table[:num_prefix].expand(tokens.shape[0], -1, -1)
    patches = table[num_prefix:]
    known = tokens + torch.cat([prefix, patches[visible]], dim=1)
    return torch.cat([known, mask_token.to(tokens.dtype) + patches[missing]], dim=1)


def initialize(module: nn.Module) -> None:
    """VideoMAE's initialisation: Xavier-uniform matrices, mask tokens within one σ (spec amd 9)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    token = getattr(module, "mask_token", None)
    if token is not None:
        nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)
