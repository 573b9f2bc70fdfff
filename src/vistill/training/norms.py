"""Batch norms that see the pictures of all ranks, on any device (torch's own need CUDA)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vistill.methods.ranks import Ranks
from vistill.training.distributed import World
from vistill.training.ranks import AllRanks


@contextmanager
def norms_of_all_ranks(world: World) -> Iterator[None]:
    """Let every batch norm that trains meanwhile see what all ranks of `world` are at.

    All ranks have to run the same ones in the same order. Their averages are then the same on every
    rank, and gradients those of one rank with the whole batch, given that training averages them.
    """
    if world.size == 1:
        yield
        return
    with _Shared(AllRanks(world.rank, world.size)):
        yield


class _Shared(TorchFunctionMode):
    """Replaces torch's function rather than modules, as libraries have their own of these."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.batch_norm:
            return batch_norm(self.ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    ranks: Ranks,
    input: Float[Tensor, "b c *size"],
    running_mean: Float[Tensor, " c"] | None,
    running_var: Float[Tensor, " c"] | None,
    weight: Float[Tensor, " c"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "b c *size"]:
    """`torch.nn.functional.batch_norm`, in training over the batches of all ranks."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.float()
    over = [axis for axis in range(x.dim()) if axis != 1]
    var, mean = torch.var_mean(x, over, correction=0)
    count = x.numel() // x.shape[1]
    # Each row: the means, the variances and the count of a rank.
    told = torch.cat([mean, var, mean.new_tensor([count])])[None]
    means, variances, counts = ranks.gather(told, "full").split([len(mean), len(mean), 1], dim=1)
    counts = counts.detach()
    total = counts.sum()
    mean = (counts * means).sum(dim=0) / total
    var = (counts * (variances + (means - mean) ** 2)).sum(dim=0) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (total / (total - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    shape = [1, -1, *[1] * (x.dim() - 2)]
    return (x * scale.view(shape) + shift.view(shape)).to(input.dtype)
