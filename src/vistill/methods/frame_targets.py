"""What an image teacher says of the visible tokens of every frame, as a target that a cache may
bring (UMT, section 3.1; spec umt 2, 3)."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.methods.frame_teacher import FrameTeacher
from vistill.methods.mask_choice import MaskChoice
from vistill.methods.shared_view import SharedView

Target = tuple[Int[Tensor, "m v"] | None, Float[Tensor, "k m v c"]]
"""Visible tokens (None: all) and what the aligned layers say of them, a row for every mask."""


class FrameTargets(SharedView):
    """A method whose student is aligned with an image teacher at the tokens that it sees."""

    @abstractmethod
    def looked_at(self, batch: Batch) -> tuple[FrameTeacher, MaskChoice]:
        """How the teacher looks at these clips or pictures, and what their students see."""

    def teacher_features(self, batch: Batch) -> dict[str, Tensor]:
        """`tokens` `[B, V, K, C]`, what the aligned layers say, and `visible` `[B, V]`, where; all
        of them are where nothing is hidden."""
        looks, choose = self.looked_at(batch)
        clips = looks.shown(batch, self.ours.images(batch))
        visible, found = looks.look(clips, partial(choose, batch))
        tokens = {"tokens": found.movedim(0, 2)}
        return tokens if visible is None else {"visible": visible, **tokens}

    def target_of(self, features: Mapping[str, Tensor]) -> Target:
        visible, found = features.get("visible"), features["tokens"].movedim(2, 0)
        if visible is None:
            return None, found
        visible = visible.reshape(len(visible) * self.masks, -1)
        return visible, found.reshape(len(found), *visible.shape, -1)

    def disagreement(
        self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> Float[Tensor, " b"]:
        """On the tokens that both chose; or half the share of the others, if that is more: rounding
        of the attention makes a few."""
        if "visible" not in ours:
            return super().disagreement(ours, theirs)
        found, said, others = in_common(ours, theirs, self.masks)
        return torch.maximum(super().disagreement(found, said), others / 2)

    @property
    def masks(self) -> int:
        """Masks drawn for each look of the teacher."""
        return 1


def key_of(looks: FrameTeacher, choose: MaskChoice, student: Any) -> dict[str, Any]:
    """What such a target hangs on besides the frames and the teacher's weights."""
    return {"signal": "block", "mask_sizes": [*choose.sizes], **looks.key(student)}


def in_common(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], masks: int
) -> tuple[Float[Tensor, "b m v c"], Float[Tensor, "b m v c"], Float[Tensor, " b"]]:
    """Tokens of both at the places that both chose, 0 elsewhere, and the share of other places.

    Args:
        ours: `visible` `[B, V]` and `tokens` `[B, V, ...]`.
        theirs: the same of another look.
        masks: that the places were drawn by, one after the other.
    """
    at, theirs_at = (said["visible"].unflatten(1, (masks, -1)) for said in (ours, theirs))
    same = at[..., None] == theirs_at[..., None, :]
    both = same.any(dim=3, keepdim=True)
    found, said = (one["tokens"].flatten(2).unflatten(1, (masks, -1)) for one in (ours, theirs))
    said = said.gather(2, same.int().argmax(dim=3, keepdim=True).expand_as(said))
    return found * both, said * both, (~both).float().flatten(1).mean(dim=1)
