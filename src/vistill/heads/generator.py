"""AMD's generator, which completes a teacher's features where the student saw nothing (section 3;
spec amd 6)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.heads.hidden_decoder import beside_mask_tokens, initialize
from vistill.models.layers import LAYER_NORM_EPS, Block, BlockParts, through


class FeatureGenerator(nn.Module):
    """Projected features of visible tokens in, the teacher's features of missing ones out.

    Args:
        depth: number of blocks.
        num_heads: heads per block.
        positions: fixed table `[1, P + L, D]` at the teacher's width.
        num_prefix: prefix tokens P, which are passed along.
        mask_token: `learned`, or `frozen` at its initial value as published.
        final_norm: a layer norm on the output; the published generators have none.
        parts: of its blocks, as the student's.
    """

    mask_token: Tensor
    pos_embed: Tensor

    def __init__(
        self,
        depth: int,
        num_heads: int,
        *,
        positions: Float[Tensor, "1 n d"],
        parts: BlockParts,
        num_prefix: int = 0,
        mask_token: Literal["learned", "frozen"] = "learned",
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        width = positions.shape[2]
        self.num_prefix = num_prefix
        token = torch.zeros(1, 1, width)
        if mask_token == "learned":
            self.mask_token = nn.Parameter(token)
        else:
            self.register_buffer("mask_token", token)
        self.register_buffer("pos_embed", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, **parts._asdict()) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if final_norm else nn.Identity()
        initialize(self)

    def forward(
        self,
        projected: Float[Tensor, "b n d"],
        visible: Int[Tensor, "b v"],
        missing: Int[Tensor, "b e"],
    ) -> Float[Tensor, "b e d"]:
        """Complete the features.

        Args:
            projected: student features at the teacher's width: prefix, then those of `visible`.
            visible, missing: patch indices.
        """
        x = beside_mask_tokens(
            projected, self.mask_token, self.pos_embed, self.num_prefix, visible, missing
        )
        return self.norm(through(self.blocks, x, slice(x.shape[1] - missing.shape[1], None)))
