"""Element-wise transforms that bring the channels of a target to comparable scales (KDEP;
spec kdep 7)."""

from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32


def power_temperature(
    features: Float[Tensor, "*b d"], temperature: float = 0.1, n: float = 3.0
) -> Float[Tensor, "*b d"]:
    """sign(f) · |f / T|^(1/n) in fp32 or better: its slope at zero is unbounded."""
    features = at_least_fp32(features)
    return features.sign() * (features / temperature).abs() ** (1 / n)


def rescale(
    features: Float[Tensor, "*b d"],
    std: Float[Tensor, " d"],
    wanted: float | Float[Tensor, " d"],
) -> Float[Tensor, "*b d"]:
    """Channels of given `std` with the `wanted` one: a number is scale normalisation, a value per
    channel is std matching."""
    return features * (wanted / std).to(features)


def linear_std(singular_values: Float[Tensor, " k"], ratio: float) -> Float[Tensor, " k"]:
    """Linear map of descending singular values onto [1, ratio], the largest to `ratio`."""
    largest, smallest = singular_values[0], singular_values[-1]
    return (largest - ratio * smallest + (ratio - 1) * singular_values) / (largest - smallest)
