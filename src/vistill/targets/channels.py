"""From the teacher's channels to as many as the student has, by fixed maps (KDEP; spec kdep 6)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def project(
    features: Float[Tensor, "b d"], mean: Float[Tensor, " d"], basis: Float[Tensor, "d k"]
) -> Float[Tensor, "b k"]:
    """Centre and rotate onto singular directions; no whitening."""
    return (features - mean.to(features)) @ basis.to(features)


def strongest_channels(std: Float[Tensor, " d"], k: int) -> Int[Tensor, " k"]:
    """The k channels of largest variance, in descending order."""
    return torch.argsort(std, descending=True, stable=True)[:k]


def random_channels(width: int, k: int, seed: int) -> Int[Tensor, " k"]:
    """k channels drawn once, in random order."""
    return torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:k]


def interpolate(
    features: Float[Tensor, "b d"], k: int, mode: Literal["nearest", "linear"] = "nearest"
) -> Float[Tensor, "b k"]:
    """Resize along the channels; the published `nearest` takes channel floor(i·D / k)."""
    return F.interpolate(features[:, None], size=k, mode=mode)[:, 0]


def pad(features: Float[Tensor, "b d"], k: int) -> Float[Tensor, "b k"]:
    """Zeros behind the channels there are."""
    return F.pad(features, (0, k - features.shape[1]))
