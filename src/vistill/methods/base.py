"""What a method is to the training loop: one module, `method(batch) -> Losses`.

Student, projectors and decoders are registered; the frozen teacher stands behind a `Side`, which is
no module, so that it is never saved, never wrapped and never trained.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.methods.ranks import OneRank, Ranks
from vistill.methods.side import Side
from vistill.models.backbone import Backbone
from vistill.models.text.answering import Answerer
from vistill.models.text.video_text import VideoText
from vistill.random import Stream
from vistill.tokens.masks import Mask, NestedMask


class TargetFit(Protocol):
    """What a method learns about the training pictures in one pass before its first step.

    Every picture comes once. A pass may be paused, and shared by several ranks: sums are merged.
    """

    @property
    def view(self) -> Literal["train", "eval"]:
        """Whether it wants the pictures as in training or as in tests."""

    @property
    def count(self) -> int:
        """Pictures seen so far."""

    def add(self, batch: Batch) -> None:
        """See a batch, which is on the method's device."""

    def state(self) -> dict[str, Tensor]:
        """What was seen so far, on the host."""

    def merge(self, state: dict[str, Tensor]) -> None:
        """Count in the state of another pass."""

    def result(self) -> dict[str, Tensor]:
        """What `Method.use_fit` takes."""


class Method(nn.Module, ABC):
    """A distillation (or reconstruction) method.

    Args:
        student: the model to be trained; registered, as whatever a subclass adds to itself.
        teacher: a frozen model, or None.

    Attributes:
        ours: the student as a side.
        no_decay: parts of names of parameters that the paper exempts from weight decay.
        peak_scale: factor of the run's peak learning rate.
        teacher_rests: leave the teacher where it is until it is asked.
        targets_change: in the course of a run, so that its first loss says nothing of later ones.
        inputs: makes, in loader processes, what it reads in `Batch.inputs` (a
            `vistill.data.inputs.Inputs`); None: what its section of the configuration asks for.
        ranks: the processes that share a step; itself alone outside of training steps.
    """

    student: Backbone
    no_decay: ClassVar[tuple[str, ...]] = ()
    peak_scale: float = 1.0
    teacher_rests: bool = False
    targets_change: bool = False
    inputs: Callable[..., Mapping[str, np.ndarray]] | None = None
    ranks: Ranks = OneRank()

    def __init__(self, student: Backbone, teacher: Backbone | None = None) -> None:
        super().__init__()
        self.student = student
        self.ours = Side(student, "student", Stream.DROP_PATH)
        self._theirs: Side | None = None
        if teacher is not None:
            teacher.requires_grad_(False).eval()
            self._theirs = Side(teacher, "teacher", Stream.TEACHER_DROP_PATH)

    @property
    def theirs(self) -> Side:
        """The teacher as a side."""
        assert self._theirs is not None
        return self._theirs

    @property
    def teacher(self) -> Backbone | None:
        """The frozen teacher, or None."""
        return self._theirs.model if self._theirs is not None else None

    @property
    def exports(self) -> dict[str, Backbone]:
        """What a run exports, by name; the only model of most methods has none."""
        return {"": self.student}

    @property
    def reader(self) -> VideoText | Answerer | None:
        """What reads beside the student and leaves with it, if anything does."""
        return None

    def parts(self) -> dict[str, "Method"]:
        """What learns on its own, by the name of its export: itself, unless several do."""
        return {"": self}

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """The total, which has a gradient, and every term of it by name, which has none."""

    def mask(self, batch: Batch) -> Mask | NestedMask | None:
        """Which tokens the student sees of every sample; None: all of them."""
        return None

    def target_fit(self, pictures: int) -> TargetFit | None:
        """The pass that has to come before the first step; None where there is none.

        Args:
            pictures: how many there are to train on.

        Raises:
            UserError: they are too few.
        """
        return None

    def use_fit(self, fitted: Mapping[str, Tensor]) -> str:
        """Take the result of the pass; a line that says what it found.

        Raises:
            UserError: it does not allow what the method is asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} fits nothing")

    def reached(self, progress: float) -> None:
        """Told before every training step: the share of the run's steps that are done, in [0, 1).

        What a method makes of it follows from this number alone, so that a run may be resumed.
        """

    def rank_state(self) -> dict[str, Any]:
        """What this rank has for itself, such as a queue of features: tensors, numbers, text, and
        lists and mappings of them. A checkpoint keeps that of every rank."""
        return {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `rank_state`; tensors may be on another device."""

    def to_device(self, device: torch.device | str) -> Self:
        """Move everything, the teacher included unless it rests."""
        self.to(device)
        if self.teacher is not None and not self.teacher_rests:
            self.teacher.to(device)
        return self


def weighted(
    terms: Mapping[str, tuple[float, Tensor]], watched: Mapping[str, Tensor] | None = None
) -> Losses:
    """Losses of terms, each with its weight in the total.

    Args:
        terms: weight and value by name.
        watched: further numbers to log.
    """
    total = torch.stack([weight * value for weight, value in terms.values()]).sum()
    detached = {name: value.detach() for name, (_, value) in terms.items()}
    return Losses(
        total, detached, {name: value.detach() for name, value in (watched or {}).items()}
    )
