"""The first inputs of a run as pictures: what was cropped, what was hidden, and where the student
looks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vistill.analysis.drawing import FRAME, boxed, jpeg, lit, masked
from vistill.augment.crops import Box
from vistill.batch import Batch, unit_pixels
from vistill.data.transforms import TrainTransform, Transform
from vistill.data.video.transforms import VideoTrainTransform
from vistill.methods.base import Method
from vistill.methods.frame_targets import FrameTargets
from vistill.models.attention_maps import hear_attention
from vistill.models.backbone import Backbone
from vistill.models.precision import AUTOCAST
from vistill.models.vit import VisionTransformer
from vistill.runs.inspecting import places_of
from vistill.training.precision import plain

if TYPE_CHECKING:
    from vistill.runs.pretraining import Prepared

_PICTURES, _CLIPS = 6, 2
_FRAMES = 4
"""Frames that are shown of a clip."""
_WORK = 6e10
"""Multiplications that pictures of attention may cost, about a second of a processor."""
_ATTENDED = 4

Picture = tuple[str, bytes]
"""Caption and JPEG."""


class _Cropped(NamedTuple):
    """What a crop was cut from, and where."""

    decoded: Tensor
    box: Box


@dataclass
class _Watched:
    """Crops as `crop` does, and keeps what it cropped."""

    crop: TrainTransform | VideoTrainTransform
    seen: list[_Cropped]

    def __call__(self, decoded: Tensor, rng: np.random.Generator) -> Tensor:
        before = copy.deepcopy(rng)
        view = self.crop(decoded, rng)
        self.seen.append(_Cropped(decoded, self.crop.box(decoded, before)))
        return view


@dataclass(frozen=True)
class Inputs:
    """What is shown of a run's inputs.

    Attributes:
        pictures: what was read, with the crop and what is hidden in it.
        batches: the same as the student is given them.
    """

    pictures: list[Picture]
    batches: list[Batch]


@torch.no_grad()
def first_inputs(prepared: "Prepared") -> Inputs:
    """The first samples of a run's first step, by its own seeds."""
    config, device = prepared.config, prepared.world.device
    seen: list[_Cropped] = []

    def watch(crop: TrainTransform | VideoTrainTransform) -> Transform:
        return _Watched(crop, seen)

    count = _PICTURES if config.data.frames is None else _CLIPS
    batches = prepared.stream.first(count, watch)
    source, pictures, cropped = prepared.reading.source, [], iter(seen)
    method = next(iter(prepared.method.parts().values()))
    dtype = AUTOCAST[plain(config.train.precision, device)]
    for batch in batches:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            visible = _visible(method, batch.to(device))
        grids = [None] * len(batch) if visible is None else _grids(method, batch, visible)
        for row, (sample, grid) in enumerate(zip(batch.ids.tolist(), grids, strict=True)):
            one = next(cropped)
            name = Path(source.sample_name(sample)).name
            pictures.append((_caption(name, grid), _drawn(one, batch.pixels[row], grid)))
    return Inputs(pictures, batches)


def _caption(name: str, visible: np.ndarray | None) -> str:
    return name if visible is None else f"{name}: {visible.mean():.0%} of the patches visible"


def _visible(method: Method, batch: Batch) -> Tensor | None:
    """Positions of the tokens that the student sees, `[B, V]`; None: all."""
    if (mask := method.mask(batch)) is not None:
        return mask.visible
    if isinstance(
        method, FrameTargets
    ):  # chosen by the teacher; of several masks the first is shown
        found = method.features(batch)
        assert not isinstance(found, Tensor)
        visible = found.get("visible")
        return None if visible is None else visible.unflatten(1, (method.masks, -1))[:, 0]
    return None


def _grids(method: Method, batch: Batch, visible: Tensor) -> list[np.ndarray]:
    """Whether each place is visible: slots, rows and columns of every sample."""
    student = method.student
    assert isinstance(student, VisionTransformer)  # nothing is hidden from others
    rows, columns = student.grid
    slots = student.slots if batch.pixels.dim() == 5 else 1
    flags = torch.zeros(len(batch), slots * rows * columns, dtype=torch.bool)
    flags.scatter_(1, visible.cpu(), True)
    return [*flags.reshape(-1, slots, rows, columns).numpy()]


def _drawn(cropped: _Cropped, view: Tensor, visible: np.ndarray | None) -> bytes:
    """What was read with its crop, beside what the student sees; of a clip below each other."""
    if view.dim() == 3:
        grid = None if visible is None else visible[0]
        read, given = boxed(_hwc(cropped.decoded), cropped.box), _hwc(view)
        side = max(1, round(read.height * max(given.shape) / given.shape[0]))
        return jpeg([[read, masked(given, grid, side)]])
    shown = _some(view.shape[1])
    grids = [None if visible is None else visible[n * len(visible) // view.shape[1]] for n in shown]
    frames = [boxed(_hwc(cropped.decoded[:, n]), cropped.box, FRAME) for n in shown]
    crops = [masked(_hwc(view[:, n]), grid, FRAME) for n, grid in zip(shown, grids, strict=True)]
    return jpeg([frames, crops])


def _some(frames: int) -> list[int]:
    """The first of as many equal parts of a clip."""
    count = min(frames, _FRAMES)
    return [number * frames // count for number in range(count)]


def _hwc(pixels: Tensor) -> np.ndarray:
    bytes_ = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().byte()
    return bytes_.movedim(0, -1).cpu().numpy()


@torch.no_grad()
def attention_pictures(student: Backbone, batches: Sequence[Batch]) -> list[Picture]:
    """Where the student looks in its first inputs: of its first, middle and last block the mean
    over heads of what the class token attends to, or where there is none, all patches.

    Empty where no attention over whole pictures can be watched.
    """
    if not student.depth or not batches:
        return []
    blocks = sorted({1, (student.depth + 1) // 2, student.depth})
    dimensions = 5 if student.num_frames > 1 else 4
    pixels = next((one.pixels for one in batches if one.pixels.dim() == dimensions), None)
    if pixels is None or tuple(pixels.shape[-2:]) != tuple(student.image_size):
        return []
    kept: dict[int, Tensor] = {}
    parameters = sum(one.numel() for one in student.parameters())
    tokens = pixels.shape[-2] * pixels.shape[-1] // 256 * max(1, student.num_frames // 2)
    pixels = pixels[: max(1, min(_ATTENDED, int(_WORK / (2 * parameters * tokens))))]

    def hear(number: int, maps: Tensor) -> None:
        if number in blocks and len(maps) == len(pixels):
            kept[number] = maps.mean(dim=1)

    device = next(student.parameters()).device
    images = student.normalization(unit_pixels(pixels.to(device))).to(student.input_type)
    hear_attention(student, images, hear)
    if not kept:
        return []
    places = places_of(student, next(iter(kept.values())).shape[-1], 1.0)
    prefix, told = places.prefix, ", ".join(map(str, sorted(kept)))
    found = []
    for row, view in enumerate(pixels):
        lines = []
        for number in sorted(kept):
            one = kept[number][row].float().cpu()
            seen = one[0, prefix:] if student.has_class_token else one[prefix:, prefix:].mean(dim=0)
            lines.append(seen.reshape(places.slots, *places.grid).numpy())
        found.append((f"blocks {told}", _lit(view, lines)))
    return found


def _lit(view: Tensor, maps: Sequence[np.ndarray]) -> bytes:
    """A picture beside its light by block; of a clip a row for every block."""
    if view.dim() == 3:
        picture = _hwc(view)
        return jpeg([[masked(picture, None), *(lit(picture, one[0], one.max()) for one in maps)]])
    shown = _some(view.shape[1])
    rows = [[masked(_hwc(view[:, n]), None, FRAME) for n in shown]]
    for one in maps:
        slots = [n * len(one) // view.shape[1] for n in shown]
        rows.append([lit(_hwc(view[:, n]), one[slot], one.max(), FRAME)
                     for n, slot in zip(shown, slots, strict=True)])  # fmt: skip
    return jpeg(rows)
