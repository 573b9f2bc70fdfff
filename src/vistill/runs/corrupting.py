"""The evaluator of robustness to corruptions: a trained classifier on corrupted pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.files import local_path
from vistill.runs.classifying import classifier_of
from vistill.runs.measured import Named, opened
from vistill.runs.reference import backbone_reference, require_trained
from vistill.runs.results import Table
from vistill.runs.samples import as_trained, open_samples

if TYPE_CHECKING:
    from vistill.data import Source
    from vistill.data.corrupted import Photographs
    from vistill.evaluation.known_classes import Known
    from vistill.evaluation.robustness import Hits
    from vistill.evaluation.robustness import Table as Errors
    from vistill.evaluation.trained import TrainedClassifier
    from vistill.models.backbone import Backbone
    from vistill.training.distributed import World


def measure_robustness(
    model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World"
) -> Table:
    """The evaluator `robustness`.

    Args:
        model: a backbone of pictures, with a head or a classifier of its own.
        data: not looked at: `config.test`, or `config.train`, are the pictures.
        config: all settings.
        world: the ranks, which share the pictures.

    Raises:
        UserError: there is no head, it does not know the classes, or the reference cannot be had.
    """
    from vistill.evaluation.robustness import Hits, corrupted_hits, robustness_score

    options = config.robustness
    if model.model.num_frames > 1:
        raise UserError(f"robustness corrupts pictures, and {model.given} takes clips")
    trained = classifier_of(model, config, None)
    photographs = _photographs(config)
    config = as_trained(config, model.reference)
    assert config.train is not None
    source = open_samples(config, config.test or config.train, "image")
    known = _known(trained, source, config)
    other = _reference(config, known)

    def hits(one: "TrainedClassifier", known: "Known", name: str) -> "Hits":
        count = 1 + len(options.corruptions) * len(options.severities)
        told = f"testing {name} on {count} views of {len(known.indices)} pictures"
        return corrupted_hits(
            one,
            source,
            known,
            config,
            photographs,
            world=world,
            progress=told if world.main else None,
        )

    found = hits(trained, known, str(model.given))
    reference: Hits | Errors | None
    if isinstance(other, tuple):
        reference = hits(other[0], _known(other[0], source, config), other[1])
    else:
        reference = other
    return {
        "config": config.model_dump(mode="json"),
        "robustness": robustness_score(
            found, options, reference, among=known.among, photographs=photographs
        ),
    }


def _known(trained: "TrainedClassifier", source: "Source", config: EvaluateConfig) -> "Known":
    from vistill.evaluation.known_classes import known_classes

    origin = trained.backbone.origin
    return known_classes(source, len(trained.classes), trained.names, origin, config.among)


def _photographs(config: EvaluateConfig) -> "Photographs":
    """Of frost, where it is asked for."""
    from vistill.data.corrupted import Photographs, frost_photographs

    folder = config.robustness.frost
    if "frost" not in config.robustness.corruptions:
        return Photographs()
    if folder is not None and not local_path(folder).is_dir():
        raise UserError(f"robustness.frost={folder} is no folder of photographs")
    found = frost_photographs(folder)
    if folder is not None and found.place is None:
        raise UserError(f"robustness.frost={folder} holds no .png and no .jpg")
    return found


def _reference(
    config: EvaluateConfig, known: "Known"
) -> "tuple[TrainedClassifier, str] | Errors | None":
    """The model that errors are told relative to, or its errors.

    Raises:
        UserError: there is no such model, it has no head, or the table does not fit.
    """
    from vistill.evaluation.robustness import alexnet_table, read_table
    from vistill.evaluation.trained import trained_classifier

    given = config.robustness.reference
    if given is None:
        return None
    if given == "alexnet":
        return alexnet_table(config.robustness, known)
    if Path(given).suffix == ".json":
        return read_table(Path(given), config.robustness)
    reference = backbone_reference(given)
    backbone = opened(reference)
    require_trained(backbone, given)
    if backbone.num_frames > 1:
        raise UserError(f"robustness.reference={given} takes clips, and these are pictures")
    return trained_classifier(backbone, reference), given
