"""Pictures, and settings of one short pass over them, for detectors that learn as students."""

from pathlib import Path

CELLS = Path(__file__).parents[1] / "data" / "cells"
QUICK = {
    "data.workers": 0,
    "data.held_out": 0.0,
    "train.device": "cpu",
    "train.loggers": [],
    "data.image_size": 64,
    "train.epochs": 1,
    "train.global_batch_size": 9,
    "optim.warmup_epochs": 0,
    "train.precision": "fp32",
}
