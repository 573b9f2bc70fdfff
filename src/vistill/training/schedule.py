"""Learning rate at a fractional epoch: linear warm-up and cosine (spec 3), or the steps, cycles and
powers of SGD recipes (spec kdep 9 and 11.2)."""

import math
from typing import Literal


def learning_rate(
    epoch: float,
    *,
    lr: float,
    min_lr: float,
    warmup_epochs: float,
    epochs: float,
    warmup_lr: float = 0.0,
    schedule: Literal["cosine", "step", "cyclic", "poly"] = "cosine",
    step_epochs: int = 30,
    gamma: float = 0.1,
    power: float = 0.9,
    peak_lead: float = 0.0,
) -> float:
    """The rate for the optimiser step that begins at `epoch` (fractional, from 0).

    The very first step of a warm-up has the rate `warmup_lr`: 0, as MAE and TinyMIM publish it.
    Groups with a `lr_scale` multiply. `step` and `cyclic` change between epochs only; `poly` falls
    with the `power` of what is left. The warm-up is at its peak `peak_lead` epochs before its end:
    one step early, its last step has the peak as well as the first one behind it (spec amd 10).
    """
    if epoch < warmup_epochs:
        ramp = warmup_epochs - peak_lead
        return warmup_lr + (lr - warmup_lr) * (epoch / ramp if ramp > 0 else 0.0)
    whole = math.floor(epoch)
    if schedule == "step":
        return lr * gamma ** (whole // step_epochs)
    if schedule == "cyclic":
        top = max(1, int(epochs) * 4 // 15)
        return lr * (whole / top if whole <= top else (epochs - whole) / (epochs - top))
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    if schedule == "poly":
        return min_lr + (lr - min_lr) * (1.0 - progress) ** power
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
