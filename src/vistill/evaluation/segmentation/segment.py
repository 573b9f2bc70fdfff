"""Train a segmenter on pictures with masks and measure it (spec 9; spec kdep 11.2)."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistill.batch import Batch
from vistill.config.evaluation import EvaluateConfig
from vistill.config.segmentation import SegmentationConfig
from vistill.data import BrokenFiles, Source, TrainStream, eval_batches
from vistill.errors import UserError
from vistill.evaluation.features import of_all_ranks, shared_out, shown
from vistill.evaluation.finetune import (
    optim_of,
    settled_length,
    unprobed,
)
from vistill.evaluation.inputs import workers_of
from vistill.evaluation.segmentation.crops import (
    IGNORED,
    PairDecoder,
    TrainCrop,
    as_it_is,
    scaled_size,
)
from vistill.evaluation.segmentation.layouts import Pairs
from vistill.evaluation.segmentation.scores import (
    SegmentationScore,
    counts_of,
    segmentation_figures,
)
from vistill.evaluation.segmentation.segmenter import Segmenter, build_segmenter
from vistill.evaluation.segmentation.sliding import slide
from vistill.models.backbone import Backbone
from vistill.training.distributed import World, alone
from vistill.training.loop import fit
from vistill.training.norms import norms_of_all_ranks
from vistill.training.precision import require_precision

_MAX_BROKEN = 0.5
_NOUN = "picture"


def evaluate_segmentation(
    backbone: Backbone,
    train: tuple[Source, Pairs],
    test: tuple[Source, Pairs],
    config: EvaluateConfig,
    *,
    progress: bool = True,
    world: World | None = None,
) -> list[SegmentationScore]:
    """Train a segmenter for every seed and test it.

    Args:
        backbone: of pictures; it is left as it is.
        train, test: pictures, each with the masks in their order.
        config: `segmentation`, and how pictures are read.
        progress: whether to show anything.
        world: the ranks that share the work; None: this process alone.

    Raises:
        UserError: the backbone cannot do what is asked.
    """
    options, world = config.segmentation, world or alone(config.device)
    progress = progress and world.main
    require_precision(options.precision, world.kind, "segmentation.precision")
    if backbone.num_frames > 1:
        raise UserError(f"segmentation needs a backbone of pictures; {backbone.origin} takes clips")
    crop = options.crop or min(backbone.image_size)
    names, scores = train[1].classes, []
    for seed in config.seeds:
        start = time.monotonic()
        broken = BrokenFiles(len(test[0]), max_share=1.0, noun=_NOUN)
        segmenter = _train(backbone, train, config, crop, seed, world, progress=progress)
        counts = _test(segmenter, test, config, crop, world, broken, progress=progress)
        mean_iou, pixels, mean, by_class = segmentation_figures(counts, names)
        seconds, unread = time.monotonic() - start, tuple(sorted(broken.names))
        scores.append(
            SegmentationScore(seed, mean_iou, pixels, mean, by_class, len(counts), seconds, unread)
        )
    return scores


def _train(
    backbone: Backbone,
    data: tuple[Source, Pairs],
    config: EvaluateConfig,
    crop: int,
    seed: int,
    world: World,
    *,
    progress: bool,
) -> Segmenter:
    (source, pairs), options = data, config.segmentation
    count = len(source)
    length, micro_batch = settled_length(
        "segmentation", options, count, part=5, noun=_NOUN, world=world, progress=progress
    )
    batch, epochs = length.batch, length.epochs
    segmenter = build_segmenter(backbone, len(pairs.classes), options, crop, seed)
    stream = TrainStream(
        source,
        np.arange(count),
        TrainCrop(options, crop),
        seed=seed,
        global_batch_size=batch,
        micro_batch_size=micro_batch,
        rank=world.rank,
        world_size=world.size,
        workers=workers_of(config, world.size),
        max_broken=_MAX_BROKEN,
        decode=PairDecoder(pairs),
        timeout=config.timeout,
    )
    optim = optim_of(
        options,
        schedule="poly",
        warmup_epochs=length.warmup_epochs,
        warmup_lr=options.warmup_share * options.lr,
        warmup_multiplies=True,
    )
    train = unprobed(epochs, batch, micro_batch, options.precision, world.kind)
    with norms_of_all_ranks(world):
        fit(
            segmenter,
            stream,
            optim=optim,
            train=train,
            seed=seed,
            groups=segmenter.groups(),
            progress=progress,
        )
    stream.close()
    return segmenter


@torch.no_grad()
def _test(
    segmenter: Segmenter,
    data: tuple[Source, Pairs],
    config: EvaluateConfig,
    crop: int,
    world: World,
    broken: BrokenFiles,
    *,
    progress: bool,
) -> np.ndarray:
    """`counts_of` every test picture that can be read, `[n, 3, C]`, by position."""
    (source, pairs), options = data, config.segmentation
    segmenter.eval().to(world.device)
    own = shared_out(np.arange(len(source)), 1, world)
    batches = eval_batches(
        source,
        own,
        as_it_is,
        batch_size=1,
        workers=workers_of(config, world.size),
        broken=broken,
        decode=PairDecoder(pairs),
        timeout=config.timeout,
    )
    counts = []
    for batch in shown(batches, len(own), "testing" if progress else None):
        found = classes_of(segmenter, batch.to(world.device), options, crop).cpu().numpy()
        truth = batch.pixels[0, 3].numpy()
        counts.append(counts_of(found, truth, len(pairs.classes), IGNORED))
    every = [one for some in of_all_ranks(counts, broken, world) for one in some]
    if not every:
        raise UserError(f"none of the {len(source)} test pictures of {source.name} can be read")
    return np.stack(every)


def classes_of(
    segmenter: Segmenter, batch: Batch, options: SegmentationConfig, crop: int
) -> Tensor:
    """The class of every pixel of one picture, `[h, w]`, at its own size."""
    both = batch.pixels
    height, width = both.shape[2:]
    size = scaled_size(height, width, options, crop)
    pixels = replace(batch, pixels=both[:, :3]).unit_pixels()
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 1)
    image = segmenter.student.normalization(pixels)
    step = max(1, int(crop * options.stride))
    how: Any = ((crop, crop), (step, step), segmenter.scores)
    scores = slide(image, *how)
    if options.flip_test:
        scores = scores + slide(image.flip(-1), *how).flip(-1)
    whole = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
    return whole.argmax(dim=1)[0]
