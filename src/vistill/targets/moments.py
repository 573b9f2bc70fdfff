"""Mean and scatter of features over any number of pictures, in one pass and constant memory
(KDEP; spec kdep 5)."""

import torch
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Running mean and centred scatter Σ (t - mean)(t - mean)ᵀ in fp64, by batch-merge updates.

    The sums are kept where the features are.

    Args:
        width: channels of a feature.

    Attributes:
        count: features seen.
        mean: `[D]`.
        scatter: `[D, D]`.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        """Count a batch of features in."""
        features = features.detach().double()
        self.mean, self.scatter = (x.to(features.device) for x in (self.mean, self.scatter))
        mean = features.mean(dim=0)
        centred = features - mean
        self._merge(features.shape[0], mean, centred.mT @ centred)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        if not count:
            return
        shift = mean.to(self.mean) - self.mean
        self.scatter += scatter.to(self.mean)
        self.scatter += torch.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    def state(self) -> dict[str, Tensor]:
        """Plain tensors that `merge` takes."""
        return {
            "count": torch.tensor(self.count),
            "mean": self.mean.cpu(),
            "scatter": self.scatter.cpu(),
        }

    def merge(self, state: dict[str, Tensor]) -> None:
        """Count in what another pass, or this one before a pause, has seen."""
        self._merge(int(state["count"]), state["mean"], state["scatter"])


def std_ratio(std: Float[Tensor, " d"]) -> tuple[float, list[int]]:
    """Largest over smallest channel std, and the dead channels, which make it infinite (10.1).

    A channel is dead where its std is below 1e-8 of the largest.
    """
    largest = std.max()
    dead = torch.nonzero(std <= 1e-8 * largest).flatten().tolist()
    return (float("inf") if dead else float(largest / std.min())), dead
