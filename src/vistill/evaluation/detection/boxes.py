"""Person boxes as the detection code of VideoMAE treats them (spec amd 11.4).

A box is `x0, y0, x1, y1` in pixels whose last column and row belong to it, so that its width is
x1 − x0 + 1.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.filled import filled
from vistill.random import Stream, per_sample_uniform

_ENLARGED = (0.1, 0.05)
_OUTWARDS, _INWARDS = (0.2, 0.1), (0.1, 0.05)


def _sides(boxes: Float[Tensor, "k 4"]) -> Float[Tensor, "k 2"]:
    return boxes[:, 2:] - boxes[:, :2] + 1


def clip_boxes(boxes: Float[Tensor, "k 4"], height: int, width: int) -> Float[Tensor, "k 4"]:
    """The part of every box that lies within the picture."""
    columns = boxes[:, 0::2].clamp(0, width - 1)
    rows = boxes[:, 1::2].clamp(0, height - 1)
    return torch.stack([columns, rows], dim=2).flatten(1)


def enlarge_boxes(boxes: Float[Tensor, "k 4"]) -> Float[Tensor, "k 4"]:
    """A tenth wider and a twentieth higher, about the centre; what tests look at."""
    margin = _sides(boxes) * filled(_ENLARGED, boxes) / 2
    return boxes + torch.cat([-margin, margin], dim=1)


def jitter_boxes(boxes: Float[Tensor, "k 4"], seeds: Int[Tensor, " k"]) -> Float[Tensor, "k 4"]:
    """Every side moved on its own, uniformly: left and right by up to a fifth of the width outwards
    or a tenth inwards, top and bottom by half as much of the height.

    Args:
        boxes: of the ground truth.
        seeds: one per box.
    """
    return moved_sides(boxes, per_sample_uniform(seeds, 4, Stream.BOX_JITTER).to(boxes.dtype))


def moved_sides(boxes: Float[Tensor, "k 4"], draws: Float[Tensor, "k 4"]) -> Float[Tensor, "k 4"]:
    """Every side where its draw from [0, 1) puts it, from furthest left or up to the opposite."""
    out, into = filled(_OUTWARDS, boxes), filled(_INWARDS, boxes)
    least = torch.cat([-out, -into])
    return boxes + (least + draws * (out + into).repeat(2)) * _sides(boxes).repeat(1, 2)


def overlaps(boxes: Float[Tensor, "k 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "k m"]:
    """Intersection over union of normalised boxes, whose width is x1 − x0."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))
