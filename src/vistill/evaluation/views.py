"""Merging the views of a test clip into one prediction (spec amd 11.3)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class Merged(NamedTuple):
    """One row per clip, in ascending order of its id.

    Attributes:
        ids: of the clips.
        probabilities: mean over the views of each view's softmax.
    """

    ids: Int[Tensor, " n"]
    probabilities: Float[Tensor, "n c"]


def merge_views(
    logits: Float[Tensor, "v c"],
    ids: Int[Tensor, " v"],
    clips: Int[Tensor, " v"],
    crops: Int[Tensor, " v"],
) -> Merged:
    """Average the softmax of all views of a video, in float64.

    A view that comes twice (ranks pad their share of the work) counts once; which of the two is
    kept does not matter, since they are the same.

    Args:
        logits: one row per view.
        ids: video of each view.
        clips, crops: which of its clips and crops it is.
    """
    keys = np.stack([ids.cpu().numpy(), clips.cpu().numpy(), crops.cpu().numpy()], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    kept = torch.from_numpy(np.sort(first)).to(logits.device)
    videos, place, counts = ids[kept].unique(return_inverse=True, return_counts=True)
    probabilities = logits[kept].double().softmax(dim=1)
    total = probabilities.new_zeros(len(videos), logits.shape[1])
    total.index_add_(0, place, probabilities)
    return Merged(videos, total / counts[:, None])
