"""How long something is trained on few samples, and that what is left out is said."""

from typing import Any

import pytest

from vistill.config.evaluation import LinearProbeConfig
from vistill.config.finetune import FineTuneConfig
from vistill.evaluation import finetune, linear_probe


@pytest.mark.parametrize(
    ("settings", "samples", "expected", "told"),
    [
        ({}, 6400, (64, 50, 5.0), None),
        (
            {},
            20,
            (20, 400, 5.0),
            "finetune: a batch of 20 instead of 64, as there are 20 pictures; 400 epochs instead "
            "of 50, for finetune.min_steps=400",
        ),
        ({"epochs": 1, "warmup_epochs": 0.0}, 640, (64, 1, 0.0), None),
        (
            {"epochs": 10, "warmup_epochs": 4.0},
            640,
            (64, 10, 2.0),
            "finetune: 2 epochs of warm-up instead of 4, which is at most 1/5 of the run",
        ),
        (
            {"global_batch_size": 100},
            30,
            (30, 400, 5.0),
            "finetune: a batch of 30 instead of 100, as there are 30 pictures; 400 epochs instead "
            "of 50, for finetune.min_steps=400",
        ),
        (
            {"recipe": "fd_clip_base", "epochs": 10},
            4096,
            (2048, 10, 2.0),
            "finetune: 2 epochs of warm-up instead of 20, which is at most 1/5 of the run",
        ),
    ],
)
def test_of_a_fine_tuning(
    settings: dict[str, Any], samples: int, expected: tuple[int, int, float], told: str | None
) -> None:
    found = finetune.length_of(FineTuneConfig(**settings), samples, "picture")
    assert (found.batch, found.epochs, found.warmup_epochs) == expected
    assert found.note == told


def test_of_a_probe() -> None:
    found = linear_probe.length_of(LinearProbeConfig(), 30, "clip")
    assert (found.batch, found.epochs, found.warmup_epochs) == (30, 1000, 10.0)
    assert found.note == (
        "linear: a batch of 30 instead of 16384, as there are 30 clips; 1000 epochs instead of 90, "
        "for linear.min_steps=1000"
    )
    said = linear_probe.length_of(LinearProbeConfig(epochs=18), 16384, "clip")
    assert said.note == "linear: 2 epochs of warm-up instead of 10, which is at most 1/9 of the run"
