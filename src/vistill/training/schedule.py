"""Learning rate at a fractional epoch: linear warm-up from zero, then cosine (spec 3)."""

import math


def learning_rate(
    epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float
) -> float:
    """The rate for the optimiser step that begins at `epoch` (fractional, from 0).

    The very first step of a warm-up has rate 0, as published. Groups with a `lr_scale` multiply.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
