"""Which patch tokens a side sees, as index sets (boolean masks would cost a host sync)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Mask(NamedTuple):
    """A rectangular choice of visible tokens.

    Attributes:
        visible: int64 `[B, K]`, kept patch indices in the order of their noise.
        restore: int64 `[B, L]`, position of every patch in (visible, then hidden) order.
        hidden: float `[B, L]`, 1 where a patch is hidden, in the original order.
    """

    visible: Int[Tensor, "b k"]
    restore: Int[Tensor, "b l"]
    hidden: Float[Tensor, "b l"]


def random_mask(noise: Float[Tensor, "b l"], mask_ratio: float) -> Mask:
    """Keep the `int(L * (1 - mask_ratio))` tokens of smallest noise (MAE, section 3; spec 2.2).

    Raises:
        ValueError: if no token would be left.
    """
    length = noise.shape[1]
    keep = int(length * (1 - mask_ratio))
    if keep < 1:
        raise ValueError(f"a mask ratio of {mask_ratio} leaves none of {length} patches visible")
    shuffle = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(shuffle, dim=1)
    hidden = (restore >= keep).to(noise.dtype)
    return Mask(shuffle[:, :keep], restore, hidden)


def gather_tokens(
    tokens: Float[Tensor, "b n d"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k d"]:
    """Rows `index` of every sample's tokens."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def bias_of_visible(
    bias: Float[Tensor, "m n n"], visible: Int[Tensor, "b k"], num_prefix: int
) -> Float[Tensor, "b m v v"]:
    """Attention bias between the prefix and the visible patches of every sample."""
    prefix = torch.arange(num_prefix, device=visible.device).expand(len(visible), -1)
    kept = torch.cat([prefix, visible + num_prefix], dim=1)
    return bias[:, kept[:, :, None], kept[:, None, :]].transpose(0, 1)
