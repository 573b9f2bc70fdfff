"""Learning rate at a fractional epoch: linear warm-up, then cosine (spec 3)."""

import math


def learning_rate(
    epoch: float,
    *,
    lr: float,
    min_lr: float,
    warmup_epochs: float,
    epochs: float,
    warmup_lr: float = 0.0,
) -> float:
    """The rate for the optimiser step that begins at `epoch` (fractional, from 0).

    The very first step of a warm-up has the rate `warmup_lr`: 0, as MAE and TinyMIM publish it.
    Groups with a `lr_scale` multiply.
    """
    if epoch < warmup_epochs:
        return warmup_lr + (lr - warmup_lr) * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
