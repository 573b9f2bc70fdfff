"""What a method is to the training loop: targets from a frozen teacher, losses from what learns.

A method holds two halves. `trained` is one module with the student, its projectors and decoders;
only its `forward` is called, so that DDP and FSDP can wrap it. The frozen teacher stays outside.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.models.backbone import Backbone


class TrainedModule(nn.Module, ABC):
    """The half that learns: student, aligners, decoders. The loop wraps it in DDP or FSDP."""

    student: Backbone
    no_decay: tuple[str, ...] = ()
    """Parts of names of parameters that the paper exempts from weight decay."""
    lr_scale: float = 1.0
    """Factor of the run's learning rate."""

    def parts(self) -> dict[str, "TrainedModule"]:
        """What learns on its own, by the name of its student: itself, unless several do."""
        return {"": self}

    @abstractmethod
    def forward(self, batch: Batch, targets: Any) -> Losses:
        """Run the student on its view of the batch and compare with `targets`."""


@dataclass(frozen=True)
class Ingredients:
    """What a method is built from.

    Attributes:
        student: the model to be trained.
        given_teacher: the frozen model, or None.
        options: the method's own switches, as in `vistill.config.methods`.
        teacher_block: block of the teacher that is read, counted from 1; None: the method's own.
        teacher_drop_path: drop path rate of the teacher.
        student_drop_path: drop path rate of the student; None: the method's own.
    """

    student: Backbone
    given_teacher: Backbone | None
    options: Mapping[str, Any]
    teacher_block: int | None = None
    teacher_drop_path: float = 0.0
    student_drop_path: float | None = None

    def teacher(self, method: str) -> Backbone:
        """The teacher; a UserError where there is none."""
        if self.given_teacher is None:
            raise UserError(
                f"{method} needs a teacher: give --teacher timm/NAME:pretrained, file:PATH or "
                "run:DIR"
            )
        return self.given_teacher


class Fitting(Protocol):
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
        """What `Method.install` takes."""


class Method(nn.Module):
    """A distillation (or reconstruction) method: `method(batch) -> Losses`.

    Subclasses set `trained` and, where there is one, `teacher`, and implement `targets`. Where the
    target is a cheap map of one output of the teacher for a view that both sides share, that output
    is `teacher_output`: it may then come from a cache instead.

    Attributes:
        teacher_rests: leave the teacher where it is until it is asked.
    """

    trained: TrainedModule
    teacher_rests: bool = False

    def __init__(self, trained: TrainedModule, teacher: Backbone | None = None) -> None:
        super().__init__()
        self.trained = trained
        self.student = (trained.student,)  # a tuple: reachable after wrapping, not registered twice
        self._teacher = (teacher,)  # not registered: never saved, never wrapped, never trained
        if teacher is not None:
            teacher.requires_grad_(False).eval()

    @property
    def backbone(self) -> Backbone:
        """The student, which is what a run exports."""
        return self.student[0]

    @property
    def students(self) -> dict[str, Backbone]:
        """All students by name; the only one of most runs has none."""
        return {"": self.backbone}

    @property
    def teacher(self) -> Backbone | None:
        """The frozen teacher, or None."""
        return self._teacher[0]

    def targets(self, batch: Batch) -> Any:
        """What the teacher says about the batch, without gradients; None without a teacher."""
        return None

    def observation(self) -> dict[str, Any]:
        """What `teacher_output` depends on besides pictures, crops and the teacher's weights.

        Raises:
            UserError: it depends on more than that, so nothing can be cached.
        """
        raise UserError(
            "this method's targets cannot be cached: its teacher sees views of its own; "
            "feature_distillation and kdep have a teacher that sees what the student sees"
        )

    def teacher_output(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """The teacher's output for the view that both sides share."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def target_of(self, observed: Float[Tensor, "b *n d"]) -> Any:
        """The target from `teacher_output`."""
        raise NotImplementedError(f"{type(self).__name__} has no target of one output")

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        """The picture that both sides share."""
        return batch

    def ask(self, seen: Batch) -> Float[Tensor, "b *n d"]:
        """`teacher_output`, by a teacher that is woken first."""
        device = seen.pixels.device
        if self.teacher is not None and next(self.teacher.parameters()).device != device:
            self.teacher.to(device)
        return self.teacher_output(seen)

    @torch.no_grad()
    def observed(self, seen: Batch) -> Float[Tensor, "b *n d"]:
        """`teacher_output` as a cache remembers it; without one, what the teacher says."""
        if seen.remembered is None:
            return self.ask(seen)
        return seen.remembered.recall(
            lambda rows: self.ask(seen if rows is None else seen.take(rows))
        )

    def fitting(self, pictures: int) -> Fitting | None:
        """The pass that has to come before the first step; None where there is none.

        Args:
            pictures: how many there are to train on.

        Raises:
            UserError: they are too few.
        """
        return None

    def install(self, fitted: Mapping[str, Tensor]) -> str:
        """Take the result of the pass; a line that says what it found.

        Raises:
            UserError: it does not allow what the method is asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} fits nothing")

    def forward(self, batch: Batch) -> Losses:
        batch = self.view(batch, augment=self.training)
        with torch.no_grad():
            targets = self.targets(batch)
        return self.trained(batch, targets)

    def to_device(self, device: torch.device | str) -> "Method":
        """Move both halves, the teacher included unless it rests."""
        self.to(device)
        if self.teacher is not None and not self.teacher_rests:
            self.teacher.to(device)
        return self


def freeze_unreached(method: Method, batch: Batch) -> list[str]:
    """Freeze the parameters of `method.trained` that `batch` sends no gradient to, and name them.

    A parameter behind the deepest tap (for TinyMIM: the last block's projection and MLP, spec 4.4)
    would otherwise sit in the optimiser and make DDP wait for a gradient that never comes. One
    forward and backward pass finds them for any method and any student; buffers are put back.
    """
    trained = method.trained
    buffers = {name: buffer.clone() for name, buffer in trained.named_buffers()}
    was_training = trained.training
    trained.train()
    method(batch).total.backward()
    unreached = [
        name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None
    ]
    for name, parameter in trained.named_parameters():
        parameter.grad = None
        if name in unreached:
            parameter.requires_grad_(False)
    for name, buffer in trained.named_buffers():
        buffer.copy_(buffers[name])
    trained.train(was_training)
    return unreached
