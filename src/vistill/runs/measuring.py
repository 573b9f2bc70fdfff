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
    from vistill.data import Source, default_workers
    from vistill.evaluation.evaluate import evaluate_backbone
    from vistill.evaluation.inputs import Inputs
    from vistill.evaluation.saved_classifier import read_head, score_saved

    media: Literal["image", "video"] = "image" if clips is None else "video"
    assert config.train is not None

    def opened(path: str) -> Source:
        return open_samples(config, path, media)

    if "test" in config.protocols:
        tested = score_saved(
            model,
            read_head(reference),
            opened(config.test or config.train),
            Inputs(config.image_size or model.image_size, clips, config.timeout),
            batch_size=config.batch_size,
            workers=default_workers() if config.workers is None else config.workers,
            device=config.device,
        )
        return (tested,)
    scores = evaluate_backbone(
        model,
        opened(config.train),
        None if config.test is None else opened(config.test),
        protocols=config.protocols,
        budgets=config.budgets,
        seeds=config.seeds,
        image_size=config.image_size,
        clips=clips,
        pool=config.pool,
        batch_size=config.batch_size,
        workers=config.workers,
        timeout=config.timeout,
        device=config.device,
        test_share=config.test_share,
        train_first=config.train_first,
        knn=config.knn,
        linear=config.linear,
        finetune=config.finetune,
    )
    return tuple(scores)


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
    from vistill.data import default_workers
    from vistill.evaluation.detection.dataset import open_detection
    from vistill.evaluation.detection.detect import evaluate_detection

    data = open_detection(Path(folder), config.detection)
    say_notes(folder, data.notes)
    scores = evaluate_detection(
        model,
        data,
        config.detection,
        stride=clips.stride,
        frames=clips.frames,
        image_size=config.image_size,
        seeds=config.seeds,
        workers=default_workers() if config.workers is None else config.workers,
        timeout=config.timeout,
        device=config.device,
    )
    return tuple(scores)


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
