"""Numbers of the host as a tensor of a device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def filled(numbers: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """A vector or matrix of `numbers` in the type and on the device of `like`.

    Filled there: a copy, as `new_tensor` makes, would let the host wait for the device.
    """
    return torch.stack(
        [
            filled(one, like) if isinstance(one, Sequence) else like.new_full((), one)
            for one in numbers
        ]
    )
