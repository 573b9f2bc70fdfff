"""Evaluations of tests: on the processor, in this process, without a word."""

from typing import Any

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.data import Source
from vistill.evaluation.evaluate import evaluate_backbone
from vistill.evaluation.metrics import Score
from vistill.models.backbone import Backbone


def settings(**given: Any) -> EvaluateConfig:
    """Settings of an evaluation on the processor without loader processes."""
    return EvaluateConfig(device="cpu", workers=0, **given)


def evaluated(
    backbone: Backbone,
    train: Source,
    test: Source | None = None,
    *,
    clips: ClipSettings | None = None,
    progress: bool = False,
    **given: Any,
) -> list[Score]:
    """`evaluate_backbone` with these settings."""
    return evaluate_backbone(
        backbone, train, test, settings(**given), clips=clips, progress=progress
    )
