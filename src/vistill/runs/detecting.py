"""The evaluator of action detection on folders of AVA's format (spec amd 11.4)."""

from pathlib import Path
from typing import TYPE_CHECKING

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.classifying import samples_of
from vistill.runs.measured import Named
from vistill.runs.results import Table, say_notes

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone
    from vistill.training.distributed import World


def detect_actions(
    model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World"
) -> Table:
    """The evaluator `detection`.

    Args:
        model: a backbone of clips.
        data: a folder of lists and videos.
        config: all settings.
        world: the ranks, which share every batch and the key frames of the test.

    Raises:
        UserError: a backbone of pictures, or a setting without use here.
    """
    config, clips, _ = samples_of(config, model)
    if clips is None:
        raise UserError(f"detection needs a backbone of clips; {model.model.origin} takes pictures")
    if config.root is not None:
        raise UserError(
            f"root={config.root} is where the paths of lists start, and detection looks for its "
            "videos in detection.videos"
        )
    from vistill.evaluation.detection.dataset import open_detection
    from vistill.evaluation.detection.detect import evaluate_detection

    lists = open_detection(Path(data), config.detection)
    say_notes(data, lists.notes)
    scores = evaluate_detection(model.model, lists, config, clips, world=world)
    return {"config": config.model_dump(mode="json"), "detection": tuple(scores)}
