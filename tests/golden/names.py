"""Published parameter names to vistill's, for loading golden states."""

import torch
from torch import Tensor

from vistill.batch import Batch
from vistill.models.backbone import Normalization
from vistill.tokens.masks import Mask

AS_IT_IS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""For images that were normalised before."""


def mae_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official MAE names to names of the method `MAE`."""
    renamed = {}
    for name, tensor in state.items():
        if name == "mask_token":
            renamed["painter.decoder.mask_token"] = tensor
        elif name.startswith("decoder_"):
            renamed[f"painter.decoder.{name.removeprefix('decoder_')}"] = tensor
        else:
            renamed[f"student.{name}"] = tensor
    return renamed


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under `prefix.`, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def batch_of(pixels: Tensor) -> Batch:
    """A batch of pictures or clips in [0, 1], or of images where nothing is normalised."""
    rows = torch.arange(len(pixels))
    return Batch(pixels, seeds=rows, ids=rows)


def published_mask(mask: Mask) -> dict[str, Tensor]:
    """A mask as MAE's code gives it: 1 where a patch is hidden, and the place of every patch in
    (visible, then hidden) order."""
    order = torch.cat([mask.visible, mask.hidden], dim=1)
    flags = torch.zeros(order.shape).scatter(1, mask.hidden, 1.0)
    return {"mask": flags, "ids_restore": order.argsort(dim=1)}
