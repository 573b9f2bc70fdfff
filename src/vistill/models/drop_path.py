"""Stochastic depth of models that are not vistill's own ViTs, drawn like theirs: from numbers that
are handed in, not from the global generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.models.layers import drop_path_keep
from vistill.models.taps import Draws

_KINDS = ("DropPath", "StochasticDepth")
"""How timm, transformers and torchvision call the module, the second after a name of their own."""


class DropPath(nn.Module):
    """Drops a residual branch of some samples and scales that of the others.

    Attributes:
        draw: uniform draws in [0, 1), one a sample; None draws from the global generator.
    """

    draw: Tensor | None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.draw = rate, None

    def forward(self, x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        if not self.training or not self.rate:
            return x
        draw = torch.rand(len(x), device=x.device) if self.draw is None else self.draw
        return dropped(x, draw, self.rate)


def dropped(x: Float[Tensor, "b *s"], draw: Float[Tensor, " b"], rate: float) -> Tensor:
    """A residual branch with that of some samples dropped."""
    return x * drop_path_keep(draw, rate, x).view(-1, *[1] * (x.dim() - 1))


def paths(module: nn.Module) -> list[tuple[nn.Module, float]]:
    """The modules of a library that drop branches sample by sample, and their rates, in order."""
    found = []
    for part in module.modules():
        if type(part).__name__.endswith(_KINDS) and getattr(part, "mode", "row") == "row":
            rate = getattr(part, "drop_prob", None) or getattr(part, "p", None) or 0.0
            if isinstance(rate, float) and 0 < rate < 1:
                found.append((part, rate))
    return found


@contextmanager
def drawn(module: nn.Module, draws: Draws) -> Iterator[None]:
    """Let the module's drop paths follow `draws`, one row each in the order of `paths`; of a part
    that another batch runs through, such as windows or frames, they stay its own."""
    if draws is None or not module.training:
        yield
        return

    def follow(draw: Tensor, rate: float, part: nn.Module, given: Any, output: Any) -> Any:
        if not part.training or len(given[0]) != len(draw):
            return output
        # Not seen by whoever counts the functions of this pass.
        with torch._C.DisableTorchFunction():
            kept = dropped(given[0], draw, rate)
            return kept if getattr(part, "scale_by_keep", True) else kept * (1 - rate)

    handles = [
        part.register_forward_hook(
            lambda part, given, output, draw=draw, rate=rate: follow(
                draw, rate, part, given, output
            )
        )
        for (part, rate), draw in zip(paths(module), draws, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
