"""Whitening and its alternatives: what a teacher's features become before they are matched."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32

Whitening = Literal["token", "channel", "l2", "none"]


def whiten(features: Float[Tensor, "*b d"], eps: float = 1e-5) -> Float[Tensor, "*b d"]:
    """Zero mean and unit (biased) variance over channels for every token, in fp32 or better."""
    return F.layer_norm(at_least_fp32(features), features.shape[-1:], eps=eps)


def standardise_channels(
    features: Float[Tensor, "*b d"], eps: float = 1e-5
) -> Float[Tensor, "*b d"]:
    """Zero mean and unit (biased) variance of every channel over all tokens of the batch."""
    rows = at_least_fp32(features).flatten(0, -2)
    variance, mean = rows.var(dim=0, unbiased=False), rows.mean(dim=0)
    return (at_least_fp32(features) - mean) / (variance + eps).sqrt()


def l2_normalise(features: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Every token at length one."""
    return F.normalize(at_least_fp32(features), dim=-1)


WHITENINGS: dict[Whitening, Callable[[Tensor], Tensor]] = {
    "token": whiten,
    "channel": standardise_channels,
    "l2": l2_normalise,
    "none": at_least_fp32,
}
