"""Train an action detector on AVA-format data and measure its frame-mAP (spec amd 11.4)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
import torch

from vistill.config.clip_recipes import ClipSettings
from vistill.config.detection import DetectionConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.data.broken import BrokenFiles
from vistill.errors import UserError
from vistill.evaluation.boxed import BoxedStream, each_sample
from vistill.evaluation.classifier import fixed_table, let_learn, prepare_backbone
from vistill.evaluation.detection.ava import KeyFrame
from vistill.evaluation.detection.clips import KeyFrameReader, View
from vistill.evaluation.detection.dataset import DetectionData
from vistill.evaluation.detection.detector import PIXELS, ActionDetector, DetectionBatch
from vistill.evaluation.detection.mean_precision import Actions, frame_average_precisions
from vistill.evaluation.features import of_all_ranks, shown
from vistill.evaluation.finetune import (
    optim_of,
    settled_length,
    unprobed,
)
from vistill.evaluation.inputs import workers_of
from vistill.image_size import height_width, shown_size
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.training.distributed import World, alone
from vistill.training.loop import fit
from vistill.training.optim import layer_decay_groups
from vistill.training.precision import require_precision

_SHORT_SIDE = 8 / 7
_MAX_BROKEN = 0.5
_NOUN = "key frame"


@dataclass(frozen=True)
class DetectionScore:
    """Result of one seed.

    Attributes:
        seed: of the head, the order and the crops.
        mean_precision: frame-mAP at an intersection over union of 0.5, in [0, 1].
        precisions: average precision by action.
        boxes: whether people were `detected` or the `true` boxes were given.
        key_frames: key frames tested.
        people: true boxes in the lists of the test.
        seconds: wall-clock time.
        broken: key frames that could not be read and were left out.
    """

    seed: int
    mean_precision: float
    precisions: Mapping[str, float]
    boxes: Literal["detected", "true"]
    key_frames: int
    people: int
    seconds: float
    broken: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"frame-mAP {100 * self.mean_precision:.1f} % at IoU 0.5 over {len(self.precisions)} "
            f"actions, {self.boxes} boxes, {self.key_frames} key frames with {self.people} people, "
            f"seed {self.seed}"
        )


class Reading(NamedTuple):
    """Loader processes, seconds that a key frame may take, and the ranks that share the work."""

    workers: int
    timeout: float
    world: World


def evaluate_detection(
    backbone: Backbone,
    data: DetectionData,
    config: EvaluateConfig,
    clips: ClipSettings,
    *,
    progress: bool = True,
    world: World | None = None,
) -> list[DetectionScore]:
    """Train a detector for every seed and test it.

    Args:
        backbone: takes clips; it is left as it is.
        data: lists and videos.
        config: `detection`, and how samples are read.
        clips: how a clip is taken around a key frame.
        progress: whether to show anything.
        world: the ranks that share the work; None: this process alone.

    Raises:
        UserError: the backbone takes no clips or cannot do what is asked.
    """
    options, world = config.detection, world or alone(config.device)
    progress = progress and world.main
    require_precision(options.precision, world.kind, "detection.precision")
    size = height_width(config.image_size or backbone.image_size)
    model = _require_clips(prepare_backbone(backbone, size, "avg", clips.frames))
    short_side = options.short_side or round(_SHORT_SIDE * min(size))
    if short_side < min(size):
        raise UserError(
            f"detection.short_side={short_side} is less than the crop of {shown_size(size)} pixels"
        )
    reading = Reading(workers_of(config, world.size), config.timeout, world)
    told: set[str] = set()
    frames, patch = model.num_frames, model.patch_size
    cut = View(
        frames,
        clips.stride,
        short_side,
        size,
        False,
        patch,
        options.flip,
        options.sampling,
        options.span,
    )
    scores = []
    for seed in config.seeds:
        start = time.monotonic()

        def reader(frames: list[KeyFrame], view: View, seed: int = seed) -> KeyFrameReader:
            return KeyFrameReader(
                frames,
                data.files,
                options.start_seconds,
                data.num_actions,
                view,
                seed,
                replace=not view.whole,
                fps=options.fps,
            )

        detector = _train(
            model, reader(data.train, cut), options, seed, reading, told, progress=progress
        )
        asked = reader(data.asked, cut._replace(whole=True))
        broken = BrokenFiles(len(data.asked), max_share=1.0, told=told, noun=_NOUN)
        found, tested = _test(detector, asked, data, reading, broken, progress=progress)
        precisions = frame_average_precisions(found, tested, data.names)
        scores.append(
            DetectionScore(
                seed=seed,
                mean_precision=fmean(precisions.values()) if precisions else 0.0,
                precisions={data.names[action]: value for action, value in precisions.items()},
                boxes="detected" if data.detected else "true",
                key_frames=len(tested.frames.unique()),
                people=sum(len(frame.boxes) for frame in data.truth),
                seconds=time.monotonic() - start,
                broken=tuple(sorted(broken.names)),
            )
        )
    return scores


def _require_clips(backbone: Backbone) -> VisionTransformer:
    if not isinstance(backbone, VisionTransformer) or not fixed_table(backbone):
        raise UserError(
            f"action detection needs vistill's own ViT of clips, and this is another model "
            f"({backbone.origin})"
        )
    return backbone


def build_detector(
    backbone: VisionTransformer, num_actions: int, options: DetectionConfig, seed: int
) -> ActionDetector:
    """A detector around a copy of `backbone`."""
    own = _require_clips(prepare_backbone(backbone, backbone.image_size, "avg"))
    let_learn(own, options.drop_path)
    assert own.pos_embed is not None
    own.pos_embed.requires_grad_(False)
    detector = ActionDetector(own, num_actions, seed=seed)
    height, width = own.image_size
    pixels = torch.full((1, 3, own.num_frames, height, width), 0.5)
    one = torch.zeros(1, dtype=torch.long)
    box = torch.tensor([[0.0, 0.0, 0.0, width - 1.0, height - 1.0]])
    actions = torch.zeros(1, num_actions)
    freeze_unreached(detector, DetectionBatch(pixels, one, one, boxes=box, actions=actions))
    return detector


def _train(
    backbone: VisionTransformer,
    reader: KeyFrameReader,
    options: DetectionConfig,
    seed: int,
    reading: Reading,
    told: set[str],
    *,
    progress: bool,
) -> ActionDetector:
    count, world = len(reader.frames), reading.world
    length, micro_batch = settled_length(
        "detection", options, count, part=4, noun=_NOUN, world=world, progress=progress
    )
    batch, epochs = length.batch, length.epochs
    stream = BoxedStream(
        reader,
        global_batch_size=batch,
        micro_batch_size=micro_batch,
        workers=reading.workers,
        timeout=reading.timeout,
        broken=BrokenFiles(len(reader.frames), _MAX_BROKEN, told=told, noun=_NOUN),
        rank=world.rank,
        world_size=world.size,
    )
    detector = build_detector(backbone, reader.num_actions, options, seed)
    optim = optim_of(options, warmup_epochs=length.warmup_epochs, peak_in_warmup=True)
    train = unprobed(epochs, batch, micro_batch, options.precision, world.kind)
    groups = layer_decay_groups(
        detector,
        weight_decay=options.weight_decay,
        layer_decay=options.layer_decay,
        depth=backbone.depth,
        layer_of=detector.student.parameter_layers().__getitem__,
    )
    fit(detector, stream, optim=optim, train=train, seed=seed, groups=groups, progress=progress)
    return detector


@torch.no_grad()
def _test(
    detector: ActionDetector,
    reader: KeyFrameReader,
    data: DetectionData,
    reading: Reading,
    broken: BrokenFiles,
    *,
    progress: bool,
) -> tuple[Actions, Actions]:
    """What the detector finds, and the truth of the key frames that could be read."""
    world = reading.world
    detector.eval().to(world.device)
    moments = {frame.moment: number for number, frame in enumerate([*data.truth, *reader.frames])}
    actions = torch.tensor(sorted(data.names))
    found, read = [], set()
    own = range(world.rank, len(reader.frames), world.size)
    batches = each_sample(reader, own, reading.workers, broken, reading.timeout)
    for batch in shown(batches, len(own), "testing" if progress else None):
        frame = reader.frames[int(batch.ids)]
        read.add(frame.moment)
        batch = batch.to(world.device)
        assert batch.boxes is not None
        scores = detector.detect(PIXELS(batch.unit_pixels()), batch.boxes).sigmoid().cpu()
        found.append(_rows(frame, moments, [actions] * len(scores), scores[:, actions - 1]))
    parts = of_all_ranks((found, read), broken, world)
    found = [rows for some, _ in parts for rows in some]
    read = {moment for _, some in parts for moment in some}
    asked = {frame.moment for frame in reader.frames}
    truth = [
        _rows(frame, moments, [torch.tensor(sorted(done)) for done in frame.actions], None)
        for frame in data.truth
        if frame.moment in read or frame.moment not in asked
    ]
    return _joined(found), _joined(truth)


def _rows(
    frame: KeyFrame,
    moments: Mapping[tuple[str, float], int],
    actions: Sequence[torch.Tensor],
    scores: torch.Tensor | None,
) -> Actions:
    """One row per person and action of a key frame."""
    numbers = torch.cat(list(actions))
    owner = torch.tensor(np.repeat(np.arange(len(actions)), [len(some) for some in actions]))
    return Actions(
        torch.full_like(numbers, moments[frame.moment]),
        torch.from_numpy(frame.boxes)[owner],
        numbers,
        torch.ones(len(numbers)) if scores is None else scores.flatten(),
    )


def _joined(parts: Sequence[Actions]) -> Actions:
    if not parts:
        raise UserError("none of the key frames to be tested can be read")
    columns = zip(*((p.frames, p.boxes, p.actions, p.scores) for p in parts), strict=True)
    return Actions(*(torch.cat(column) for column in columns))
