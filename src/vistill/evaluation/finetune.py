"""Fine-tuning of a whole backbone on labelled samples, by the loop that pre-trains (spec 7)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vistill.batch import Batch
from vistill.config.finetune import FINETUNE_RECIPES, FineTuneConfig
from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.config.section import Section
from vistill.data import Source, TrainStream
from vistill.evaluation.classifier import Classifier, build_classifier
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.lengths import Length, fitting_length
from vistill.models.backbone import Backbone
from vistill.models.swin import NO_DECAY, SwinBackbone
from vistill.training.distributed import World, alone
from vistill.training.loop import fit
from vistill.training.norms import norms_of_all_ranks
from vistill.training.optim import Group, layer_decay_groups
from vistill.training.progress import tell

_CLIPS_AT_ONCE = 16
_MAX_BROKEN = 0.5
"""A label budget may be a handful of pictures, of which one may be broken."""


def fine_tune(
    backbone: Backbone,
    source: Source,
    indices: np.ndarray,
    *,
    num_classes: int,
    options: FineTuneConfig | None = None,
    inputs: Inputs,
    pool: Literal["avg", "cls"] = "avg",
    seed: int = 0,
    workers: int = 0,
    world: World | None = None,
    progress: bool = True,
    on_test: Callable[[Classifier], float] | None = None,
    told: set[str] | None = None,
    head: Mapping[str, Tensor] | None = None,
) -> Classifier:
    """Train a classifier that starts from a copy of `backbone`; the original is left as it is.

    Args:
        backbone: where the weights come from.
        source: of the labelled pictures or clips.
        indices: which of them to learn from.
        num_classes: outputs of the head.
        options: recipe; its batch shrinks to the number of pictures and its epochs grow to
            `min_steps`.
        inputs: what is seen of a sample.
        pool: which feature is classified.
        seed: of head, order and augmentation.
        workers: loader processes.
        world: the ranks, on the device where to train, which share every batch; None: this process
            alone.
        progress: whether to show anything.
        on_test: accuracy of the classifier, asked for on rank 0 every `test_every` epochs and at
            the end.
        told: names of broken samples that were logged.
        head: weights that the head and the norm in front of it start from.

    Raises:
        UserError: the backbone cannot do what the options ask, or the batch cannot be shared.
    """
    options, world = options or FineTuneConfig(), world or alone()
    length = length_of(options, len(indices), source.media.noun, world)
    batch, epochs = length.batch, length.epochs
    most = options.micro_batch_size
    if most is None and inputs.clips is not None:
        most = max(1, _CLIPS_AT_ONCE // options.repeats)
    micro_batch = fitting_micro_batch(batch // world.size, most)
    transform, decode = inputs.training(options)
    stream = TrainStream(
        source,
        indices,
        transform,
        seed=seed,
        global_batch_size=batch,
        micro_batch_size=micro_batch,
        rank=world.rank,
        world_size=world.size,
        workers=workers,
        max_broken=_MAX_BROKEN,
        decode=decode,
        repeats=options.repeats,
        timeout=inputs.timeout,
    )
    if told is not None:
        stream.broken.told = told
    classifier = build_classifier(
        backbone,
        num_classes,
        image_size=inputs.image_size,
        pool=pool,
        options=options,
        seed=seed,
        num_frames=None if inputs.clips is None else inputs.clips.frames,
    )
    if head is not None:
        classifier.load_state_dict(head, strict=False)
    optim = optim_of(
        options,
        step_epochs=options.step_epochs or math.ceil(epochs / 3),
        warmup_epochs=length.warmup_epochs,
        peak_in_warmup=inputs.clips is not None,
    )
    train = unprobed(
        epochs, batch, micro_batch, options.precision, world.kind, every=options.test_every
    )
    groups = finetune_groups(classifier, options)
    with norms_of_all_ranks(world):
        fit(
            classifier,
            stream,
            optim=optim,
            train=train,
            seed=seed,
            groups=groups,
            on_evaluate=None if on_test is None else lambda _: {"test_top1": on_test(classifier)},
            progress=progress,
        )
    stream.close()
    return classifier


def optim_of(options: Section, **other: Any) -> OptimConfig:
    """The loop's section of what `options` say, but for `other` settings."""
    given = options.model_dump(include=set(OptimConfig.model_fields))
    return OptimConfig(**given | {"betas": (0.9, 0.999)} | other)


def length_of(
    options: FineTuneConfig, samples: int, noun: str, world: World | None = None
) -> Length:
    """Batch and epochs of a fine-tuning on so many samples, whose batches all ranks share.

    Raises:
        UserError: they cannot.
    """
    batch, recipe = options.global_batch_size, FINETUNE_RECIPES[options.recipe]
    # A few recipes warm up for longer than the fifth of the run that is the most otherwise.
    part = min(5, recipe["epochs"] / recipe["warmup_epochs"]) if recipe.get("warmup_epochs") else 5
    return fitting_length(
        "finetune", options, samples, batch=batch, part=part, noun=noun, world=world
    )


def finetune_groups(classifier: Classifier, options: FineTuneConfig) -> list[Group]:
    """Layer-decay groups of a classifier around any backbone that lists its blocks."""
    backbone = classifier.student
    layers = backbone.parameter_layers()
    return layer_decay_groups(
        classifier,
        options.weight_decay,
        options.layer_decay,
        backbone.depth,
        prefix="student.",
        layer_of=layers.__getitem__,
        no_decay_names=NO_DECAY if isinstance(backbone, SwinBackbone) else (),
        decay_biases=options.decay_biases,
    )


def fitting_micro_batch(batch: int, wanted: int | None) -> int:
    """The largest divisor of the batch that is not above the wanted micro-batch."""
    most = batch if wanted is None else min(wanted, batch)
    return next(size for size in range(most, 0, -1) if batch % size == 0)


def settled_length(
    section: str,
    options: Any,
    samples: int,
    *,
    part: float,
    noun: str,
    world: World,
    progress: bool,
) -> tuple[Length, int]:
    """`fitting_length` by the section's own batch, with its note told, and the micro-batch of each
    rank.

    Raises:
        UserError: a batch that the ranks cannot share.
    """
    batch = options.global_batch_size
    length = fitting_length(
        section, options, samples, batch=batch, part=part, noun=noun, world=world
    )
    if progress and length.note is not None:
        tell(length.note)
    return length, fitting_micro_batch(length.batch // world.size, options.micro_batch_size)


def class_scores(classifier: Classifier) -> Callable[[Batch], Tensor]:
    """The logits of a batch in its test view, for `vistill.evaluation.features.collect`."""
    return lambda batch: classifier.logits(classifier.test_normalization(batch.unit_pixels()))


def unprobed(
    epochs: int,
    batch: int,
    micro_batch: int,
    precision: Literal["fp32", "bf16", "fp16"],
    device: Literal["auto", "cpu", "cuda"],
    *,
    every: int | None = None,
) -> TrainConfig:
    """The loop's settings where nothing is probed: a test `every` so many epochs, or at the end."""
    return TrainConfig(
        epochs=epochs,
        global_batch_size=batch,
        micro_batch_size=micro_batch,
        precision=precision,
        device=device,
        knn_probe=False,
        evaluate_every=every or epochs,
    )
