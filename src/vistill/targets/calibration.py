"""What one pass over the training pictures says about a teacher's features: mean, std, singular
directions (KDEP; spec kdep 5)."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.targets.moments import Moments

_EPS = 2.0**-52


@dataclass(frozen=True)
class Calibration:
    """Statistics of N features of D channels; fp64 tensors on the CPU, K = min(N, D).

    Attributes:
        count: N as a tensor.
        mean: `[D]`.
        std: unbiased std of every channel `[D]`.
        singular_values: of the centred `[N, D]` matrix, descending `[K]`; the std along direction i
            is `singular_values[i] / sqrt(N - 1)`.
        basis: right-singular vectors as columns `[D, K]`, the largest entry of each positive.
    """

    count: Tensor
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    singular_values: Float[Tensor, " k"]
    basis: Float[Tensor, "d k"]

    @classmethod
    def of(cls, moments: Moments, *, centred: bool = True) -> "Calibration":
        """From the finished pass; without centring, directions pass through the origin."""
        count, scatter, mean = moments.count, moments.scatter.cpu(), moments.mean.cpu()
        about = scatter if centred else scatter + count * torch.outer(mean, mean)
        eigenvalues, vectors = torch.linalg.eigh(about)
        kept = min(count, scatter.shape[0])
        return cls(
            count=torch.tensor(count),
            mean=mean if centred else torch.zeros_like(mean),
            std=(scatter.diagonal() / max(count - 1, 1)).sqrt(),
            singular_values=eigenvalues.flip(0)[:kept].clamp(min=0).sqrt(),
            basis=canonical_signs(vectors.flip(1)[:, :kept]).contiguous(),
        )

    def state(self) -> dict[str, Tensor]:
        """Plain tensors by name; `Calibration(**state)` is the inverse."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def rank(self) -> int:
        """How many directions the features vary in, beyond rounding."""
        sigma = self.singular_values
        # The roots of eigenvalues that are zero but for rounding are this large.
        noise = sigma[0] * (len(self.mean) * _EPS) ** 0.5
        return min(int((sigma > noise).sum()), int(self.count) - 1)

    @property
    def direction_std(self) -> Float[Tensor, " k"]:
        """Std along every singular direction."""
        return self.singular_values / float(self.count - 1) ** 0.5

    def energy(self, k: int) -> float:
        """Share of the variance in the first k directions."""
        squares = self.singular_values.square()
        return float(squares[:k].sum() / squares.sum())


def canonical_signs(basis: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Flip columns so that the entry of largest magnitude is positive (the first one on ties)."""
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return basis * torch.where(largest < 0, -1.0, 1.0)
