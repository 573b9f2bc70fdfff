"""What a method may know of the other ranks: their rows, gathered for losses over the batch."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from jaxtyping import Shaped
from torch import Tensor

from vistill.errors import UserError

Gradient = Literal["none", "local", "full"]
"""What of the gradient of gathered rows comes back to the rank that gave them:

- `none`: nothing;
- `local`: what its own loss says of them;
- `full`: what the losses of all ranks say, added. As training averages the gradients of weights
  over ranks, the weights then learn what they would on one rank with the whole batch.
"""


class Ranks(Protocol):
    """This process among those that share a step."""

    @property
    def rank(self) -> int:
        """Number of this one, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def gather(
        self, tensor: Shaped[Tensor, "b *_"], grad: Gradient = "none"
    ) -> Shaped[Tensor, "all_b *_"]:
        """The rows of all ranks, of which each gives as many, in the order of ranks.

        All ranks call it together, in the same order as their other calls.
        """


class OneRank:
    """The only process, or one that works for itself."""

    rank = 0
    size = 1

    def gather(
        self, tensor: Shaped[Tensor, "b *_"], grad: Gradient = "none"
    ) -> Shaped[Tensor, "b *_"]:
        """The rows themselves."""
        return tensor.detach() if grad == "none" else tensor


def copied(state: Any, copy: Callable[[Tensor], Tensor] = Tensor.clone) -> Any:
    """A copy of what `Method.rank_state` gives, its tensors by `copy`, without gradient.

    Raises:
        UserError: it holds something that a checkpoint cannot.
    """
    if isinstance(state, Tensor):
        return copy(state.detach())
    if isinstance(state, Mapping):
        return {key: copied(value, copy) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value, copy) for value in state)
    if state is None or isinstance(state, bool | int | float | str | bytes):
        return state
    raise UserError(
        f"rank_state() of a method holds a {type(state).__name__}, which no checkpoint keeps; give "
        "tensors, numbers, text, and lists and mappings of them"
    )
