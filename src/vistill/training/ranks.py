"""The ranks of a run as a method sees them (`vistill.methods.ranks`), over torch.distributed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from vistill.methods.base import Method
from vistill.methods.ranks import Gradient, OneRank, Ranks
from vistill.training.distributed import World


class AllRanks:
    """Every rank of a run of several."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def gather(
        self, tensor: Shaped[Tensor, "b *_"], grad: Gradient = "none"
    ) -> Shaped[Tensor, "all_b *_"]:
        """The rows of all ranks; see `vistill.methods.ranks.Ranks`."""
        if grad == "none" or not (torch.is_grad_enabled() and tensor.requires_grad):
            return _gathered(tensor.detach(), self.size)
        return _Gather.apply(tensor, self.rank, self.size, grad == "full")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, size: int, full: bool) -> Tensor:
        ctx.rank, ctx.rows, ctx.full = rank, len(tensor), full
        return _gathered(tensor, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0]
        if ctx.full:
            gradient = gradient.contiguous().clone()
            dist.all_reduce(gradient)
        return gradient[ctx.rank * ctx.rows :][: ctx.rows], None, None, None


def _gathered(tensor: Tensor, size: int) -> Tensor:
    # Backends move numbers alone: a truth value goes as a byte.
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    parts = [torch.empty_like(sent, memory_format=torch.contiguous_format) for _ in range(size)]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(tensor.dtype)


@contextmanager
def ranks_of(module: nn.Module, world: World | None) -> Iterator[None]:
    """Let every method in `module` know the ranks of `world` (None: itself alone) meanwhile."""
    ranks: Ranks = OneRank()
    if world is not None and world.size > 1:
        ranks = AllRanks(world.rank, world.size)
    methods = [part for part in module.modules() if isinstance(part, Method)]
    before = [method.ranks for method in methods]
    for method in methods:
        method.ranks = ranks
    try:
        yield
    finally:
        for method, known in zip(methods, before, strict=True):
            method.ranks = known
