"""What the tokens of layers are like: how many directions they use, how their channels vary, and
how alike two layers, or two models, see the same pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.analysis.compactness import effective_rank
from vistill.targets.moments import Moments


class Spectrum(NamedTuple):
    """Of the tokens of one layer.

    Attributes:
        effective_rank: exp of the entropy of the covariance's eigenvalues: directions in use.
        channels: of how many.
        std: mean standard deviation of a channel.
    """

    effective_rank: float
    channels: int
    std: float


def spectrum(tokens: Moments) -> Spectrum:
    """Of all tokens that were counted in."""
    covariance = tokens.scatter / tokens.count
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    std = covariance.diagonal().clamp(min=0).sqrt().mean()
    return Spectrum(effective_rank(values), len(tokens.mean), float(std))


def cka(features: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "l l"]:
    """Linear CKA between each two of some features of the same pictures, with the unbiased
    estimate of HSIC (Kornblith et al., arXiv 1905.00414; Nguyen et al., arXiv 2010.15327).

    Raises:
        ValueError: there are fewer than four pictures.
    """
    count = len(features[0])
    if count < 4:
        raise ValueError(f"CKA needs four pictures, not {count}")
    grams = []
    for one in features:
        centred = one.double() - one.double().mean(dim=0)
        gram = centred @ centred.T
        grams.append(gram.fill_diagonal_(0))
    found = torch.empty(len(grams), len(grams), dtype=torch.float64)
    for i, first in enumerate(grams):
        for j, second in enumerate(grams[: i + 1]):
            found[i, j] = found[j, i] = _hsic(first, second)
    own = found.diagonal().clamp(min=torch.finfo(found.dtype).tiny).sqrt()
    return found / (own[:, None] * own[None])


def _hsic(first: Float[Tensor, "n n"], second: Float[Tensor, "n n"]) -> Tensor:
    n = len(first)
    trace = (first * second).sum()
    sums = first.sum() * second.sum() / ((n - 1) * (n - 2))
    rows = 2 * (first.sum(dim=0) @ second.sum(dim=0)) / (n - 2)
    return (trace + sums - rows) / (n * (n - 3))


def agreement(first: Float[Tensor, "n d"], second: Float[Tensor, "n e"]) -> Float[Tensor, " n"]:
    """How alike two models place each picture among all others: the correlation of its cosines to
    them, which needs no common space."""
    rows = []
    for features in (first, second):
        unit = F.normalize(features.double() - features.double().mean(dim=0), dim=1)
        cosines = unit @ unit.T
        others = ~torch.eye(len(unit), dtype=torch.bool)
        rows.append(cosines[others].reshape(len(unit), -1))
    one, other = (F.normalize(row - row.mean(dim=1, keepdim=True), dim=1) for row in rows)
    return (one * other).sum(dim=1)


def by_class(
    values: Float[Tensor, " n"], labels: Int[Tensor, " n"], classes: Sequence[str]
) -> list[tuple[str, float, int]]:
    """Name, mean and number of every class that is there, the lowest mean first."""
    found = []
    for label in labels.unique().tolist():
        if label >= 0:
            own = values[labels == label]
            found.append((classes[label], float(own.mean()), len(own)))
    return sorted(found, key=lambda one: one[1])
