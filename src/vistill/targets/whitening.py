"""Whitened targets: layer normalisation without affine parameters (spec 5)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32


def whiten(features: Float[Tensor, "*b d"], eps: float = 1e-5) -> Float[Tensor, "*b d"]:
    """Zero mean and unit (biased) variance over channels for every token, in fp32 or better."""
    return F.layer_norm(at_least_fp32(features), features.shape[-1:], eps=eps)
