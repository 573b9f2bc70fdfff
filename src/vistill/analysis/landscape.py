"""Loss and accuracy around a model's weights, under Gaussian noise that is scaled filter by filter
(Li et al., arXiv 1712.09913; FD, section 4; spec fd 7.4)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["filter", "layer", "none"]
_EPS = 1e-10


def gaussian(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A direction drawn from N(0, 1), each parameter by a generator of its own, on the host."""
    found = {}
    for name, value in model.named_parameters():
        digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest))
        found[name] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return found


def scaled(
    model: nn.Module,
    direction: Mapping[str, Tensor],
    *,
    norm: Norm = "filter",
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """A direction as long as the weights, filter by filter.

    Args:
        model: whose weights it is scaled to.
        direction: of its parameters.
        norm: of every index of the first axis by itself, of whole tensors, or as it is.
        exclude: patterns of names that stay; those with at most one dimension do in any case.
    """
    found = {}
    for name, value in model.named_parameters():
        noise = direction[name].to(value)
        if value.dim() < 2 or any(fnmatch(name, pattern) for pattern in exclude):
            found[name] = torch.zeros_like(value)
        elif norm == "none":
            found[name] = noise
        else:
            rows = 1 if norm == "layer" else len(value)
            weights, own = value.detach().reshape(rows, -1), noise.reshape(rows, -1)
            length = weights.norm(dim=1, keepdim=True) / (own.norm(dim=1, keepdim=True) + _EPS)
            found[name] = (own * length).reshape(value.shape)
    return found


@contextmanager
def moved(
    model: nn.Module, steps: Sequence[tuple[float, Mapping[str, Tensor]]]
) -> Iterator[nn.Module]:
    """The model at w + Σ a·d; afterwards its weights are what they were, to the bit."""
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    try:
        with torch.no_grad():
            for name, value in model.named_parameters():
                for length, direction in steps:
                    value.add_(direction[name], alpha=length)
        yield model
    finally:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(kept[name])


Measure = Callable[[nn.Module], tuple[float, float]]
"""Mean loss and accuracy in percent of a model on some fixed pictures."""


def curve(
    model: nn.Module, measure: Measure, direction: Mapping[str, Tensor], lengths: Sequence[float]
) -> Float[Tensor, "2 n"]:
    """Loss and accuracy at w + a·d, for every length a."""
    rows = []
    for length in lengths:
        with moved(model, [(length, direction)]):
            rows.append(measure(model))
    return torch.tensor(rows, dtype=torch.float64).T


def plane(
    model: nn.Module,
    measure: Measure,
    directions: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    lengths: Sequence[float],
) -> Float[Tensor, "2 n n"]:
    """The same at w + a·d₁ + b·d₂; rows are a, columns b."""
    first, second = directions
    rows = []
    for a in lengths:
        row = []
        for b in lengths:
            with moved(model, [(a, first), (b, second)]):
                row.append(measure(model))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).permute(2, 0, 1)


def flatness(lengths: Sequence[float], losses: Float[Tensor, " n"], reach: float = 0.5) -> float:
    """Mean increase of the loss over all lengths up to `reach`; a small one is a flat minimum."""
    found = torch.tensor(lengths, dtype=torch.float64)
    centre = losses[found.abs().argmin()]
    return float((losses[found.abs() <= reach + 1e-9] - centre).mean())
