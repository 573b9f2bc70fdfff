"""Pixel reconstruction of hidden patches (MAE, section 3; spec 2.4; VideoMAE, spec amd 7)."""

from jaxtyping import Float
from torch import Tensor

VARIANCE_EPS = 1e-6


def normalize_patches(patches: Float[Tensor, "b l p"]) -> Float[Tensor, "b l p"]:
    """Each patch minus its mean over its standard deviation (unbiased variance)."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + VARIANCE_EPS) ** 0.5


def normalize_cubes(cubes: Float[Tensor, "b l c p"]) -> Float[Tensor, "b l c p"]:
    """Each channel of each cube minus its mean over its standard deviation (VideoMAE).

    Args:
        cubes: channels, then the values of one cube.
    """
    mean = cubes.mean(dim=-1, keepdim=True)
    deviation = cubes.var(dim=-1, keepdim=True).sqrt()
    return (cubes - mean) / (deviation + VARIANCE_EPS)
