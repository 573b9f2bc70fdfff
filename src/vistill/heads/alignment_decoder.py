"""UMT's decoders: from a student's tokens to what an image teacher says at the same places."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.heads.projector import linear_projector
from vistill.models.positions import sincos_1d


class AlignmentDecoder(nn.Module):
    """A linear layer and a layer norm."""

    def __init__(self, student_dim: int, teacher_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.head = linear_projector(student_dim, teacher_dim)
        self.norm = nn.LayerNorm(teacher_dim, eps=norm_eps)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        return self.norm(self.head(x))


class AlignmentDecoders(nn.Module):
    """For each aligned layer a linear layer and a layer norm, behind shared fixed positions (UMT,
    section 3.1; spec umt 4).

    Args:
        student_dim: width D of the tokens.
        teacher_dim: channels C of the targets.
        layers: how many layers K are aligned.
        num_tokens: places that a token can have in the whole input.
        norm_eps: of the layer norms.
        unit_length: whether every token leaves with an L2 norm of 1.
    """

    positions: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        layers: int,
        num_tokens: int,
        *,
        norm_eps: float = 1e-6,
        unit_length: bool = True,
    ) -> None:
        super().__init__()
        table = sincos_1d(student_dim, num_tokens)[0].float()
        self.register_buffer("positions", table, persistent=False)
        self.layers = nn.ModuleList(
            AlignmentDecoder(student_dim, teacher_dim, norm_eps) for _ in range(layers)
        )
        self.unit_length = unit_length

    def forward(
        self,
        features: Sequence[Float[Tensor, "b n d"]],
        visible: Int[Tensor, "b n"] | None,
    ) -> Float[Tensor, "k b n c"]:
        """Predictions, layer by layer.

        Args:
            features: tokens of each layer, the shallowest first.
            visible: their places; None: all, in order.
        """
        places = self.positions if visible is None else self.positions[visible]
        layers = zip(features, self.layers, strict=True)
        found = torch.stack([layer(x + places.to(x.dtype)) for x, layer in layers])
        return unit(found) if self.unit_length else found


def unit(tokens: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """Tokens of L2 norm 1 over their channels, without an epsilon."""
    return tokens / tokens.norm(dim=-1, keepdim=True)
