"""Learning rate and weight decay at a fractional epoch: linear warm-up and cosine (spec 3), or the
steps, cycles, pieces and powers of SGD recipes (spec kdep 9 and 11.2)."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

from vistill.config.optim import WARMED_UP, OptimConfig, Schedule


def rate_at(
    optim: OptimConfig, epoch: float, *, peak: float, epochs: int, steps_per_epoch: int
) -> float:
    """The learning rate of a run with such an optimiser at a fractional epoch; see `learning_rate`.

    Args:
        optim: the schedule.
        epoch: at which the step begins.
        peak: highest rate; `optim` says it for a batch, or a student has its own.
        epochs, steps_per_epoch: of the run.
    """
    rate = learning_rate(
        epoch,
        lr=peak,
        epochs=epochs,
        peak_lead=1 / steps_per_epoch if optim.peak_in_warmup else 0.0,
        **{name: getattr(optim, name) for name in _OF_A_RATE},
    )
    return max(rate, optim.floor_lr)


def decay_at(optim: OptimConfig, epoch: float, epochs: int) -> float | None:
    """The weight decay of a run with such an optimiser at a fractional epoch; None: constant."""
    start, end = optim.weight_decay, optim.weight_decay_end
    return None if end is None else weight_decay(epoch, start=start, end=end, epochs=epochs)


_OF_A_RATE = (
    *("schedule", "min_lr", "warmup_epochs", "warmup_lr", "step_epochs", "milestones", "gamma"),
    *("div_factor", "pieces", "lr_interpolation", "power", "warmup_multiplies"),
)


def learning_rate(
    epoch: float,
    *,
    lr: float,
    min_lr: float,
    warmup_epochs: float,
    epochs: float,
    warmup_lr: float = 0.0,
    schedule: Schedule = "cosine",
    step_epochs: int = 30,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    div_factor: float = 10.0,
    pieces: Sequence[tuple[float, float]] = (),
    lr_interpolation: Literal["linear", "step"] = "linear",
    power: float = 0.9,
    peak_lead: float = 0.0,
    warmup_multiplies: bool = False,
) -> float:
    """The rate for the optimiser step that begins at `epoch` (fractional, from 0).

    The very first step of a warm-up has the rate `warmup_lr`: 0, as MAE and TinyMIM publish it.
    Groups with a `lr_scale` multiply. All but `cosine` and `poly`, which falls with the `power` of
    what is left, change between epochs only. The warm-up is at its peak `peak_lead` epochs before
    its end: one step early, its last step has the peak as well as the first one behind it (spec amd
    10).

    Args:
        epoch: when.
        lr: the peak, of `piecewise` what its factors multiply.
        min_lr: at the end of `cosine`, `poly`, `1cycle` and `3cycle`.
        warmup_epochs: of linear warm-up, which the cycles and `piecewise` have none of.
        epochs: of the run.
        warmup_lr: where the warm-up begins.
        schedule: see `OptimConfig.schedule`.
        step_epochs: between the drops of `step`.
        milestones: epochs of the drops of `multistep`, ascending.
        gamma: factor of each drop.
        div_factor: peak over start of `1cycle` and `3cycle`.
        pieces: epochs, ascending, and the factors of `piecewise` there.
        lr_interpolation: between these.
        power: of `poly`.
        peak_lead: see above.
        warmup_multiplies: the warm-up, of which `warmup_lr` is the share that it begins with times
            the peak, multiplies `poly` over the whole run (mmcv; spec 9).
    """
    whole = math.floor(epoch)
    if schedule not in WARMED_UP:
        if schedule == "piecewise":
            return lr * _between(whole, pieces, stepwise=lr_interpolation == "step")
        return _between(whole, _cycles(schedule, int(epochs), lr, lr / div_factor, min_lr))
    if schedule == "poly" and warmup_multiplies:
        falling = min_lr + (lr - min_lr) * (1.0 - epoch / epochs) ** power
        missing = max(0.0, 1 - epoch / warmup_epochs) if warmup_epochs else 0.0
        return falling * (1 - missing * (1 - warmup_lr / lr))
    if epoch < warmup_epochs:
        ramp = warmup_epochs - peak_lead
        return warmup_lr + (lr - warmup_lr) * (epoch / ramp if ramp > 0 else 0.0)
    if schedule == "step":
        return lr * gamma ** (whole // step_epochs)
    if schedule == "multistep":
        return lr * gamma ** bisect_right(milestones, whole)
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    if schedule == "poly":
        return min_lr + (lr - min_lr) * (1.0 - progress) ** power
    return _cosine(lr, min_lr, progress)


def weight_decay(epoch: float, *, start: float, end: float, epochs: float) -> float:
    """The weight decay for the optimiser step that begins at `epoch`: a cosine from `start` to
    `end` over the whole run, without a warm-up (DINO; spec amd 10)."""
    return _cosine(start, end, epoch / epochs)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _cycles(
    schedule: str, epochs: int, peak: float, start: float, end: float
) -> list[tuple[float, float]]:
    """The corners of the published cycles, whose epochs are whole ones; those that a short run has
    no room for fall together."""
    if schedule == "cyclic":
        return [(0, 0.0), (max(1, epochs * 4 // 15), peak), (epochs, 0.0)]
    if schedule == "1cycle":
        part, rates = epochs // 5, {0: start, 2: peak, 4: start}
    else:
        part = epochs // 6
        rates = {0: start, 1: peak, 2: start / 10, 3: 10 * start, 4: start / 100, 5: start}
    return [*((number * part, rate) for number, rate in rates.items()), (epochs, end)]


def _between(
    epoch: float, corners: Sequence[tuple[float, float]], *, stepwise: bool = False
) -> float:
    """The value at `epoch`: on the line between two corners, or that of the corner before."""
    places = [place for place, _ in corners]
    number = bisect_right(places, epoch)
    if number == 0 or number == len(corners) or stepwise:
        # In front of its first corner a line has that one's value, and steps have not begun.
        return 1.0 if stepwise and number == 0 else corners[max(0, number - 1)][1]
    (left, before), (right, after) = corners[number - 1 : number + 1]
    return before + (after - before) * (epoch - left) / (right - left)
