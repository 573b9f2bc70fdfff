"""Train a detector on pictures with boxes and measure it (spec kdep 11.3)."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistill.config.boxes import BoxesConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.data import BrokenFiles, Source
from vistill.errors import UserError
from vistill.evaluation.boxed import BoxedStream, each_sample
from vistill.evaluation.boxes.annotations import Boxed
from vistill.evaluation.boxes.detector import Detector, build_detector
from vistill.evaluation.boxes.scores import BoxScore, Found, Precision, precision_of
from vistill.evaluation.boxes.shapes import packed
from vistill.evaluation.boxes.views import ThingsBatch, ThingsReader
from vistill.evaluation.features import of_all_ranks, shared_out, shown
from vistill.evaluation.finetune import optim_of, settled_length, unprobed
from vistill.evaluation.inputs import workers_of
from vistill.image_size import height_width
from vistill.models.backbone import Backbone
from vistill.training.distributed import World, alone
from vistill.training.loop import fit
from vistill.training.norms import norms_of_all_ranks
from vistill.training.precision import require_precision

_MAX_BROKEN = 0.5
_NOUN = "picture"
Data = tuple[Source, Boxed]


def evaluate_boxes(
    backbone: Backbone,
    train: Data,
    test: Data,
    config: EvaluateConfig,
    *,
    progress: bool = True,
    world: World | None = None,
) -> list[BoxScore]:
    """Train a detector for every seed and test it.

    Args:
        backbone: of pictures; it is left as it is.
        train, test: pictures, and what is on them in the same order.
        config: `boxes`, and how pictures are read.
        progress: whether to show anything.
        world: the ranks that share the work; None: this process alone.

    Raises:
        UserError: the backbone cannot do what is asked.
    """
    options, world = config.boxes, world or alone(config.device)
    progress = progress and world.main
    require_precision(options.precision, world.kind, "boxes.precision")
    if backbone.num_frames > 1:
        raise UserError(f"boxes needs a backbone of pictures; {backbone.origin} takes clips")
    size = height_width(options.size or backbone.image_size)
    scores = []
    for seed in config.seeds:
        start = time.monotonic()
        chosen = labelled(train, options, seed)
        broken = BrokenFiles(len(test[0]), max_share=1.0, noun=_NOUN)
        detector = _train(backbone, train, chosen, config, size, seed, world, progress=progress)
        found = _test(detector, test, config, size, world, broken, progress=progress)
        figures = partial(_figures, found, test[1], masks=options.masks)
        boxes, masks = world.once(figures)
        seconds, unread = time.monotonic() - start, tuple(sorted(broken.names))
        scores.append(BoxScore(seed, boxes, masks, len(chosen), len(found), seconds, unread))
    return scores


def labelled(data: Data, options: BoxesConfig, seed: int) -> list[int]:
    """Which pictures a seed learns from, in the order of the data.

    Raises:
        UserError: more than there are.
    """
    count = len(data[1].pictures)
    wanted = options.train_pictures or max(1, round(options.train_share * count))
    if wanted > count:
        raise UserError(
            f"boxes.train_pictures={wanted} is more than the {count} pictures to learn from"
        )
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[:wanted].tolist())


def _train(
    backbone: Backbone,
    data: Data,
    chosen: list[int],
    config: EvaluateConfig,
    size: tuple[int, int],
    seed: int,
    world: World,
    *,
    progress: bool,
) -> Detector:
    options, (source, boxed) = config.boxes, data
    length, micro_batch = settled_length(
        "boxes", options, len(chosen), part=5, noun=_NOUN, world=world, progress=progress
    )
    batch, epochs = length.batch, length.epochs
    reader = ThingsReader(source, boxed, options, size, seed, training=True, chosen=chosen)
    stream = BoxedStream(
        reader,
        global_batch_size=batch,
        micro_batch_size=micro_batch,
        workers=workers_of(config, world.size),
        timeout=config.timeout,
        broken=BrokenFiles(len(chosen), _MAX_BROKEN, noun=_NOUN),
        rank=world.rank,
        world_size=world.size,
    )
    detector = build_detector(backbone, len(boxed.classes), options, size, seed)
    # Of a short run two drops may fall on one epoch.
    drops = sorted({max(1, round(share * epochs)) for share in options.drops})
    schedule: dict[str, Any] = {"schedule": "cosine"}
    if drops:
        schedule = {"schedule": "multistep", "milestones": drops}
    optim = optim_of(
        options,
        warmup_epochs=length.warmup_epochs,
        warmup_lr=options.warmup_share * options.lr,
        **schedule,
    )
    train = unprobed(epochs, batch, micro_batch, options.precision, world.kind)
    groups = detector.groups()
    with norms_of_all_ranks(world):
        fit(detector, stream, optim=optim, train=train, seed=seed, groups=groups, progress=progress)
    return detector


@torch.no_grad()
def _test(
    detector: Detector,
    data: Data,
    config: EvaluateConfig,
    size: tuple[int, int],
    world: World,
    broken: BrokenFiles,
    *,
    progress: bool,
) -> dict[int, Found]:
    """What is found on every test picture that can be read, by position."""
    source, boxed = data
    detector.eval().to(world.device)
    own = shared_out(np.arange(len(source)), 1, world)
    reader = ThingsReader(source, boxed, config.boxes, size, 0, training=False)
    batches = each_sample(
        reader, own.tolist(), workers_of(config, world.size), broken, config.timeout
    )
    found = {}
    for batch in shown(batches, len(own), "testing" if progress else None):
        assert isinstance(batch, ThingsBatch)
        found[int(batch.ids)] = found_on(detector, batch.to(world.device))
    every: dict[int, Found] = {}
    for some in of_all_ranks(found, broken, world):
        every |= some
    if not every:
        raise UserError(f"none of the {len(source)} test pictures of {source.name} can be read")
    return every


def found_on(detector: Detector, batch: ThingsBatch) -> Found:
    """What is found on one picture, in its own pixels."""
    images = detector.student.normalization(batch.unit_pixels())
    (found,) = detector.detect(images, batch.inputs["seen"])
    height, width = batch.inputs["whole"][0].tolist()
    rows, columns = batch.inputs["seen"][0].tolist()
    factors = found["boxes"].new_tensor([width / columns, height / rows] * 2)
    boxes = found["boxes"] * factors
    return Found(
        (height, width),
        boxes.cpu().numpy(),
        found["labels"].cpu().numpy() - 1,
        found["scores"].cpu().numpy(),
        _shapes(found["masks"], boxes, (height, width)) if "masks" in found else (),
    )


def _shapes(masks: Tensor, boxes: Tensor, whole: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    found: list[dict[str, Any]] = []
    for mask, box in zip(masks, boxes, strict=True):  # all at once could fill the memory
        placed = paste_masks_in_image(mask[None], box[None], whole)[0] >= 0.5
        found += packed(placed.byte().cpu().numpy())
    return tuple(found)


def _figures(
    found: dict[int, Found], boxed: Boxed, *, masks: bool
) -> tuple[Precision, Precision | None]:
    """Precision of boxes, and of shapes where they are asked for."""
    numbers = sorted(found)
    told: Any = (
        [found[number] for number in numbers],
        [boxed.things[number] for number in numbers],
        boxed.classes,
    )
    return precision_of(*told), precision_of(*told, masks=True) if masks else None
