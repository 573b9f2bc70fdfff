"""A backbone measured by the protocols that a configuration names, or built afresh to compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.results import say_notes
from vistill.runs.samples import open_samples

if TYPE_CHECKING:
    from torch import nn

    from vistill.evaluation.detection.detect import DetectionScore
    from vistill.evaluation.metrics import Score
    from vistill.models.backbone import Backbone


def classify(
    config: EvaluateConfig, model: "Backbone", clips: ClipSettings | None, reference: str
) -> "tuple[Score, ...]":
    """Scores of the protocols that classify, or of a head that was trained before."""
    from vistill.data import Source
    from vistill.evaluation.evaluate import evaluate_backbone
    from vistill.evaluation.saved_classifier import read_head, score_saved

    media: Literal["image", "video"] = "image" if clips is None else "video"
    assert config.train is not None

    def opened(path: str) -> Source:
        return open_samples(config, path, media)

    if "test" in config.protocols:
        source = opened(config.test or config.train)
        return (score_saved(model, read_head(reference), source, config, clips=clips),)
    test = None if config.test is None else opened(config.test)
    return tuple(evaluate_backbone(model, opened(config.train), test, config, clips=clips))


def detect(
    config: EvaluateConfig, model: "Backbone", clips: ClipSettings | None, folder: str
) -> "tuple[DetectionScore, ...]":
    """Scores of action detection on AVA's kind of `folder`.

    Raises:
        UserError: a backbone of pictures, or a setting without use here.
    """
    if clips is None:
        raise UserError(f"detection needs a backbone of clips; {model.origin} takes pictures")
    if config.root is not None:
        raise UserError(
            f"root={config.root} is where the paths of lists start, and detection looks for its "
            "videos in detection.videos"
        )
    from vistill.evaluation.detection.dataset import open_detection
    from vistill.evaluation.detection.detect import evaluate_detection

    data = open_detection(Path(folder), config.detection)
    say_notes(folder, data.notes)
    return tuple(evaluate_detection(model, data, config, clips))


def fresh(model: "Backbone", seed: int, own: "nn.Module | str | None") -> "Backbone":
    """The same architecture with weights that nobody trained, drawn from `seed`.

    Raises:
        UserError: only the user can build it.
    """
    import torch

    from vistill.models.adapters.own_modules import given_back, object_facts
    from vistill.models.build import rebuild

    torch.manual_seed(seed)
    if model.build is not None:
        made = rebuild(model.build)
    elif isinstance(own, str):
        made = given_back(own, object_facts(model), Path())
    else:
        raise UserError(
            "a module of yours given as an object cannot be built afresh; give the function that "
            "makes it: model=FILE.py:NAME"
        )
    made.normalization = model.normalization
    return made
