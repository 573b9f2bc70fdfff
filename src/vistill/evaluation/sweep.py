"""Learning rate and weight decay of a fine-tuning, chosen on a part of the training pictures."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from vistill.config.finetune import FineTuneConfig
from vistill.errors import UserError
from vistill.evaluation.metrics import Tried


def candidates(options: FineTuneConfig) -> list[FineTuneConfig]:
    """The settings to try, gentlest first; a single one where there is nothing to choose."""
    rates: Sequence[float | None] = sorted(options.lrs) or [options.lr]
    decays = sorted(options.weight_decays) or [options.weight_decay]
    return [
        options.model_copy(update={"lr": lr, "weight_decay": decay, "lrs": (), "weight_decays": ()})
        for lr, decay in product(rates, decays)
    ]


def setting_text(setting: FineTuneConfig) -> str:
    """A setting in words."""
    rate = f"lr={setting.lr:g}" if setting.lr is not None else f"base_lr={setting.base_lr:g}"
    return f"{rate}, weight_decay={setting.weight_decay:g}"


def require_validation(classes: np.ndarray) -> None:
    """Raise a UserError where a class has too few pictures for one of them to judge.

    Args:
        classes: of the pictures that may be learned from.
    """
    for number, count in zip(*np.unique(classes, return_counts=True), strict=True):
        if count < 2:
            raise UserError(
                f"class number {number} has a single labelled picture to learn from, so none can "
                "judge learning rates; give one finetune.lr and finetune.weight_decay, or more "
                "labels"
            )


def choose(
    settings: list[FineTuneConfig], accuracy: Callable[[FineTuneConfig], float]
) -> tuple[FineTuneConfig, tuple[Tried, ...]]:
    """The setting with the best accuracy, the gentlest among equals, and all that were tried."""
    found = [accuracy(setting) for setting in settings]
    tried = tuple(
        Tried(setting.lr or setting.base_lr, setting.weight_decay, top1)
        for setting, top1 in zip(settings, found, strict=True)
    )
    return settings[int(np.argmax(found))], tried
