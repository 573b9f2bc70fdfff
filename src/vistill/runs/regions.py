"""Where in a picture two models differ."""

from typing import TYPE_CHECKING

from vistill.runs.inspecting import Opened
from vistill.runs.looking import looked_at

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vistill.batch import Batch

_LEAST = 4
"""Patches of a picture, below which places among the others say nothing."""


def by_region(first: Opened, other: Opened, samples: "np.ndarray") -> "Tensor | None":
    """How alike the last layers of two models place each patch among its picture's others,
    `[n, h, w]`, on the coarser of both grids; None of clips, and where a model has no grid.

    Args:
        first, other: the models, of the same pictures.
        samples: positions of those that are looked at, ascending.
    """
    import torch
    import torch.nn.functional as F

    from vistill.analysis.layers import agreement

    if first.config.frames is not None:
        return None
    maps = [_last_map(one, samples) for one in (first, other)]
    if any(one is None or len(one) < len(samples) for one in maps):
        return None
    ours, theirs = (one for one in maps if one is not None)
    size = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
    if size[0] * size[1] < _LEAST:
        return None
    rows = [F.adaptive_avg_pool2d(one, size).flatten(2).mT for one in (ours, theirs)]
    alike = torch.stack([agreement(a, b) for a, b in zip(*rows, strict=True)])
    return alike.unflatten(1, size)


def _last_map(opened: Opened, samples: "np.ndarray") -> "Tensor | None":
    """`[n, d, h, w]` of the last layer."""
    from vistill.models.backbone import Tap
    from vistill.models.grids import token_grid

    backbone = opened.backbone
    kind = "block" if "block" in backbone.taps else "map"
    tap, shape = Tap(kind, backbone.depth or 1), list[int]()  # type: ignore[arg-type]

    def compute(batch: "Batch") -> "Tensor":
        found = backbone.tap(backbone.normalization(batch.unit_pixels()), [tap])[tap]
        if found.dim() == 3:
            found = found[:, backbone.num_prefix_tokens :].mT
            grid = token_grid(found.shape[2], backbone.image_size) or (1, found.shape[2])
            found = found.unflatten(2, grid)
        shape[:] = found.shape[1:]
        return found.flatten(1)

    seen = looked_at(opened.config, backbone, compute, opened.source, samples)
    return seen.features.unflatten(1, shape) if min(shape[1:]) > 1 else None
