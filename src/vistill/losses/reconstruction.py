"""Pixel reconstruction of hidden patches (MAE, section 3; spec 2.4)."""

from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32

VARIANCE_EPS = 1e-6


def normalize_patches(patches: Float[Tensor, "b l p"]) -> Float[Tensor, "b l p"]:
    """Each patch minus its mean over its standard deviation (unbiased variance)."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + VARIANCE_EPS) ** 0.5


def masked_mse(
    prediction: Float[Tensor, "b l p"],
    target: Float[Tensor, "b l p"],
    hidden: Float[Tensor, "b l"],
) -> Float[Tensor, ""]:
    """Mean squared error of hidden patches, averaged over all hidden patches of the batch."""
    error = (at_least_fp32(prediction) - at_least_fp32(target)).pow(2).mean(dim=-1)
    return (error * hidden).sum() / hidden.sum()
