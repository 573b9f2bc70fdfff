"""How far aligned tokens are from a teacher's (UMT, section 3.1; spec umt 5)."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32, mse, smooth_l1


def chord(prediction: Float[Tensor, "*b c"], target: Float[Tensor, "*b c"]) -> Float[Tensor, ""]:
    """2 - 2⟨s, t⟩, mean over tokens: the squared distance of tokens of length 1."""
    return (2 - 2 * (at_least_fp32(prediction) * at_least_fp32(target)).sum(dim=-1)).mean()


ALIGNMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": chord,
    "mse": mse,
    "smooth_l1": partial(smooth_l1, beta=1.0),
}
