"""What more epochs mean for a run that had come to its end."""

from collections.abc import Mapping
from typing import Any

from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.training.optim import peak_lr
from vistill.training.run_folder import epochs_of
from vistill.training.schedule import rate_at


def lengthening(
    marker: Mapping[str, Any] | None, optim: OptimConfig, train: TrainConfig, steps_per_epoch: int
) -> str | None:
    """One sentence on where the learning rate goes on; None where the run is not made longer.

    Args:
        marker: what was written down when the run began.
        optim, train: settings of the longer run.
        steps_per_epoch: optimiser steps per epoch.
    """
    before = None if marker is None else epochs_of(marker["fingerprint"])
    if before is None or before >= train.epochs:
        return None
    peak, steps = peak_lr(optim, train.global_batch_size), before * steps_per_epoch

    def rate(step: int, epochs: int) -> float:
        return rate_at(
            optim, step / steps_per_epoch, peak=peak, epochs=epochs, steps_per_epoch=steps_per_epoch
        )

    ended, goes_on = rate(steps - 1, before), rate(steps, train.epochs)
    way = "rises" if goes_on > ended else "falls" if goes_on < ended else "stays"
    return (
        f"lengthened from {before} to {train.epochs} epochs: the learning rate, which had ended at "
        f"{ended:.3g} at step {steps}, {way} with the longer schedule: {goes_on:.3g} at step "
        f"{steps + 1}"
    )
