"""A trained classifier tested as it is, on samples of all or some of its classes."""

import time
from collections.abc import Callable

import torch

from vistill.batch import Batch
from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.data import BrokenFiles, Source
from vistill.evaluation.features import Features, collect
from vistill.evaluation.inputs import Inputs, workers_of
from vistill.evaluation.known_classes import Known, known_classes
from vistill.evaluation.metrics import Score, score
from vistill.evaluation.trained import TrainedClassifier
from vistill.training.distributed import World, alone
from vistill.training.progress import tell


def tested(
    trained: TrainedClassifier,
    compute: Callable[[Batch], torch.Tensor],
    source: Source,
    known: Known,
    inputs: Inputs,
    config: EvaluateConfig,
    world: World,
    progress: str | None,
) -> Features:
    """What `compute` makes of all samples whose class is known, in as many views as `inputs` gives.

    Raises:
        UserError: none can be read.
    """
    return collect(
        trained,
        compute,
        source,
        known.indices,
        inputs=inputs,
        batch_size=config.batch_size or inputs.at_once,
        workers=workers_of(config, world.size),
        device=world.device,
        progress=progress,
        broken=BrokenFiles(len(known.indices), max_share=1.0, noun=source.media.noun),
        interpolation=trained.interpolation,
        world=world,
    )


def score_classifier(
    trained: TrainedClassifier,
    source: Source,
    config: EvaluateConfig,
    *,
    clips: ClipSettings | None = None,
    progress: bool = True,
    world: World | None = None,
) -> Score:
    """Accuracy on all labelled samples of `source`.

    Args:
        trained: what is measured.
        source: pictures, or videos.
        config: how they are read, and whose scores are compared.
        clips: how clips are taken from videos.
        progress: whether to show anything.
        world: the ranks that share the samples; None: this process alone.

    Raises:
        UserError: no labels, or classes that it does not know.
    """
    world = world or alone(config.device)
    progress = progress and world.main
    inputs = Inputs(trained.backbone.image_size, clips, config.timeout)
    origin = trained.backbone.origin
    known = known_classes(source, len(trained.classes), trained.names, origin, config.among)
    inputs.require(source)
    start = time.monotonic()
    noun = source.media.noun

    def compute(batch: Batch) -> torch.Tensor:
        return known.compared(trained(batch.unit_pixels()))

    shown = "testing" if progress else None
    found = tested(trained, compute, source, known, inputs, config, world, shown)
    names = tuple(sorted(found.broken))
    if names and progress:
        tell(f"{len(names)} unreadable test {noun}s are left out: {', '.join(names)}")
    return score(
        found.features,
        torch.from_numpy(known.truth)[found.ids],
        protocol="test",
        budget=1.0,
        labels_used=0,
        seed=0,
        seconds=time.monotonic() - start,
        broken=names,
        among=known.among,
    )
