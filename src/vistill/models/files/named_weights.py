"""Loading weights by name, strictly, with every mismatch told."""

from collections.abc import Iterable

import torch
from torch import Tensor

from vistill.errors import UserError


def load_named(
    model: torch.nn.Module,
    weights: dict[str, Tensor],
    source: str,
    optional: Iterable[str] = (),
) -> None:
    """Load weights strictly and report every mismatch by name.

    Args:
        optional: names that may be missing (fine-tuned files have no final norm).

    Raises:
        UserError: if names or shapes differ.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights and name not in set(optional)]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"missing {listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {listed(unexpected)}")
    if shapes:
        problems.append(listed(shapes))
    if problems:
        raise UserError(f"{source} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first of `names`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
