"""Colour noise along the principal directions of ImageNet's pixels (KDEP; spec kdep 2)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.filled import filled
from vistill.random import Stream, per_sample_uniform

_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def apply_lighting(
    pixels: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Add eigenvectors · (alpha · eigenvalues) to the channels; the result may leave [0, 1]."""
    vectors, values = filled(_EIGENVECTORS, pixels), filled(_EIGENVALUES, pixels)
    return pixels + ((alpha.to(pixels) * values) @ vectors.mT)[:, :, None, None]


def lighting_draws(seeds: Int[Tensor, " b"], std: float) -> Float[Tensor, "b 3"]:
    """An alpha of each sample's own, normal with the given std."""
    uniform = per_sample_uniform(seeds, 3, Stream.LIGHTING) + 2.0**-25  # never 0 or 1
    return std * torch.special.ndtri(uniform)
