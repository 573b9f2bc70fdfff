"""Which tokens of every frame are worth seeing: chosen by the attention of a class token (UMT)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SMALLEST = 2.0**-25


def frame_visible(length: int, mask_ratio: float) -> int:
    """How many of a frame's `length` tokens stay visible (spec umt 3)."""
    return length - int(length * mask_ratio)


def exponential(uniform: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Draws of Exp(1) from uniform ones in [0, 1)."""
    return -torch.log1p(-uniform).clamp(max=-_SMALLEST)


def sampling_order(
    importance: Float[Tensor, "*f n"], noise: Float[Tensor, "*f n"]
) -> Int[Tensor, "*f n"]:
    """All tokens in an order drawn without replacement, likely ones first (UMT, section 3.1).

    Args:
        importance: what the probability of every token is proportional to.
        noise: draws of Exp(1); ones take the most important tokens first.
    """
    return torch.argsort(importance / noise, dim=-1, descending=True, stable=True)


def of_clip(chosen: Int[Tensor, "b s v"], positions: int) -> Int[Tensor, "b n"]:
    """Tokens chosen in every time slot as indices of the whole clip, ascending (frame by frame,
    then row by row).

    Args:
        chosen: tokens of each of S slots, in any order.
        positions: tokens of a slot.
    """
    start = torch.arange(chosen.shape[1], device=chosen.device)[:, None] * positions
    return (chosen.sort(dim=-1).values + start).flatten(1)
