"""Methods whose teacher's features are a function of the view of a sample alone: a cache may bring
them, and several students may share them. What a side hides or recolours for itself is drawn from
`Batch.view_seeds` where the teacher sees it, from `Batch.seeds` where the student alone does."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.batch import Batch, Features, Losses
from vistill.methods.base import Method


class SharedView(Method):
    """A method in three steps: the teacher's features of a view, the target made of them (a cheap
    map), and the student's losses against it."""

    @abstractmethod
    def teacher_features(self, batch: Batch) -> Features:
        """What the teacher says about the view, which a cache can keep: a vector `[B, D]`, or
        tokens first, `[B, N, D]` or `[B, N, K, D]`."""

    @abstractmethod
    def target_of(self, features: Any) -> Any:
        """The target from `teacher_features`."""

    @abstractmethod
    def compare(self, batch: Batch, target: Any) -> Losses:
        """The student's losses for the view against the target."""

    @abstractmethod
    def cache_key(self) -> dict[str, Any]:
        """What `teacher_features` depends on besides pictures, crops and the teacher's weights."""

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        """The picture that both sides see."""
        return batch

    def forward(self, batch: Batch) -> Losses:
        batch = self.view(batch, augment=self.training)
        with torch.no_grad():
            target = self.target_of(self.features(batch))
        return self.compare(batch, target)

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """`teacher_features` as a cache gives them; without one, what the teacher says."""
        if batch.cached is None:
            return self.live_features(batch)
        return batch.cached.features(
            lambda rows: self.live_features(batch if rows is None else batch.take(rows))
        )

    def disagreement(self, ours: Any, theirs: Any) -> Float[Tensor, " b"]:
        """How far features of the same samples are apart, relative to `theirs`."""
        ours, theirs = (
            torch.cat([part.float().flatten(1) for part in said.values()], dim=1)
            if isinstance(said, Mapping)
            else said.float().flatten(1)
            for said in (ours, theirs)
        )
        return (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp_min(1e-12)

    def live_features(self, batch: Batch) -> Features:
        """`teacher_features`, of a teacher that is woken first where it rests."""
        teacher, device = self.teacher, batch.pixels.device
        if teacher is not None and next(teacher.parameters()).device != device:
            teacher.to(device)
        return self.teacher_features(batch)
