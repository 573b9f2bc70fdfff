"""Settings of the smallest run on photographs of cells, with a teacher and a student as objects."""

from pathlib import Path
from typing import Any

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"
WORDS: dict[str, Any] = {
    "data.train": str(CELLS),
    "data.image_size": 32,
    "data.workers": 0,
    "data.held_out": 0.2,
    "teacher.model": "object:vit",
    "teacher.weights": "random",
    "train.global_batch_size": 11,
    "train.device": "cpu",
    "train.precision": "fp32",
}
