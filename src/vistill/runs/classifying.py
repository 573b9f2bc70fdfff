"""Evaluators of a backbone's features: those that classify, and the test of a trained head."""

from typing import TYPE_CHECKING, Any, Literal

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.runs.measured import Named
from vistill.runs.results import Table
from vistill.runs.samples import as_trained, clips_of, open_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vistill.data import Source
    from vistill.evaluation.metrics import Score
    from vistill.evaluation.trained import TrainedClassifier
    from vistill.models.backbone import Backbone
    from vistill.training.distributed import World


def classify(model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World") -> Table:
    """The evaluators `knn`, `linear` and `finetune`, which share the features.

    Args:
        model: what is measured.
        data: not looked at: `config.train` and `config.test` are its parts.
        config: all settings.
        world: the ranks.

    Raises:
        UserError: no labels, differing classes, or settings that do not suit the backbone.
    """
    from vistill.evaluation.evaluate import evaluate_backbone
    from vistill.evaluation.saved_classifier import read_head

    config, clips, opened = samples_of(config, model)
    assert config.train is not None
    test = None if config.test is None else opened(config.test)
    starts = "finetune" in config.protocols and config.finetune.head != "fresh"
    head = read_head(model.reference) if starts else None
    train = opened(config.train)
    return _table(
        config,
        evaluate_backbone(model.model, train, test, config, clips=clips, head=head, world=world),
    )


def test_head(model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World") -> Table:
    """The evaluator `test`: a head that was trained before; arguments as of `classify`.

    Raises:
        UserError: there is no head, or it does not know the classes.
    """
    from vistill.evaluation.testing import score_classifier

    config, clips, opened = samples_of(config, model)
    assert config.train is not None
    trained = classifier_of(model, config, None if clips is None else clips.frames)
    source = opened(config.test or config.train)
    return _table(config, [score_classifier(trained, source, config, clips=clips, world=world)])


def classifier_of(
    model: "Named[Backbone]", config: EvaluateConfig, frames: int | None
) -> "TrainedClassifier":
    """The classifier that was asked for, whose backbone is there, for clips of so many frames.

    Raises:
        UserError: it has none.
    """
    from vistill.evaluation.trained import trained_classifier

    return trained_classifier(
        model.model, model.reference, image_size=config.image_size, frames=frames
    )


def samples_of(
    config: EvaluateConfig, model: "Named[Backbone]"
) -> "tuple[EvaluateConfig, ClipSettings | None, Callable[[str], Source]]":
    """The settings as the backbone was trained, how clips are taken, and what opens samples."""
    clips = clips_of(config, model.model, model.reference, config.finetune.recipe)
    if clips is not None:
        config = config.model_copy(update=clips._asdict())
    else:
        config = as_trained(config, model.reference)
    media: Literal["image", "video"] = "image" if clips is None else "video"
    return config, clips, lambda path: open_samples(config, path, media)


def _table(config: EvaluateConfig, scores: "Sequence[Score]") -> dict[str, Any]:
    from vistill.evaluation.metrics import summarize

    return {
        "config": config.model_dump(mode="json"),
        "scores": tuple(scores),
        "summaries": tuple(summarize(scores)),
    }
