"""FSP, the flow of features through a CNN (Yim et al., 2017), a baseline of KDEP's tables.

Waiting for a method that trains with it: only tests call it so far.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def flow(maps: list[Float[Tensor, "b c h w"]]) -> list[Float[Tensor, "b c e"]]:
    """FSP matrices: inner products over space of the maps of consecutive stages."""
    matrices = []
    for first, second in pairwise(maps):
        height, width = min(first.shape[2:], second.shape[2:])
        a, b = (F.adaptive_avg_pool2d(x, (height, width)).flatten(2) for x in (first, second))
        matrices.append(a @ b.mT / a.shape[2])
    return matrices


def flow_mse(
    student: list[Float[Tensor, "b c h w"]], teacher: list[Float[Tensor, "b c h w"]]
) -> Float[Tensor, " pairs"]:
    """Mean squared difference of FSP matrices, for every pair of consecutive stages."""
    pairs = zip(flow(student), flow(teacher), strict=True)
    return torch.stack([F.mse_loss(a, b.detach()) for a, b in pairs])
