"""Methods whose two sides see the same view of a picture, so that the teacher's features are a
function of that view alone: a cache may bring them, and several students may share them."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.methods.base import Method


class SharedView(Method):
    """A method in three steps: the teacher's features of a view, the target made of them (a cheap
    map), and the student's losses against it."""

    @abstractmethod
    def teacher_features(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """What the teacher says about the view; one tensor, which a cache can keep."""

    @abstractmethod
    def target_of(self, features: Float[Tensor, "b *n d"]) -> Any:
        """The target from `teacher_features`."""

    @abstractmethod
    def compare(self, batch: Batch, target: Any) -> Losses:
        """The student's losses for the view against the target."""

    @abstractmethod
    def cache_key(self) -> dict[str, Any]:
        """What `teacher_features` depends on besides pictures, crops and the teacher's weights.

        Raises:
            UserError: it depends on more than that, so nothing can be cached.
        """

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        """The picture that both sides see."""
        return batch

    def forward(self, batch: Batch) -> Losses:
        batch = self.view(batch, augment=self.training)
        with torch.no_grad():
            target = self.target_of(self.features(batch))
        return self.compare(batch, target)

    @torch.no_grad()
    def features(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """`teacher_features` as a cache gives them; without one, what the teacher says."""
        if batch.cached is None:
            return self.live_features(batch)
        return batch.cached.features(
            lambda rows: self.live_features(batch if rows is None else batch.take(rows))
        )

    def live_features(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """`teacher_features`, of a teacher that is woken first where it rests."""
        teacher, device = self.teacher, batch.pixels.device
        if teacher is not None and next(teacher.parameters()).device != device:
            teacher.to(device)
        return self.teacher_features(batch)
