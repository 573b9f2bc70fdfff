"""What a run is asked, what it remembers between sessions, and what it comes to."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from vistill.batch import Batch
from vistill.training.outlook import Curves

_DIVERGED = 10
_TINY = 1e-3
Totals = dict[str, tuple[float, int]]
"""(sum, count) by name."""


class Broken(Protocol):
    """The unreadable samples met so far: name → reason. A sample is a `noun`."""

    names: dict[str, str]
    noun: str

    def summary(self) -> str:
        """How many there are, in short; empty for none."""

    def state(self) -> dict[str, str]:
        """Plain data for a checkpoint."""

    def load(self, state: dict[str, str]) -> None:
        """The inverse of `state`."""


class Stream(Protocol):
    """What the loop asks of its data; `vistill.data.TrainStream` has it."""

    @property
    def broken(self) -> Broken:
        """Unreadable samples so far."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimiser step and rank."""

    def kinds(self) -> Sequence[Batch]:
        """A small batch of each kind that there is; empty where all batches are of one."""

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Micro-batches of this rank from a global step on."""

    def close(self) -> None:
        """End loader processes, which would otherwise keep the interpreter from ending."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: lowest held-out loss, or highest kNN accuracy without one."""

    metric: str
    value: float
    epoch: int
    step: int

    def beats(self, other: "Best | None") -> bool:
        """Whether this one is better; NaN never is."""
        if self.value != self.value:
            return False
        sign = -1 if self.metric == "held_out_loss" else 1
        return other is None or sign * self.value > sign * other.value

    def doubt(self, first: float | None) -> str | None:
        """Why this cannot be the best, where a number is not finite or a loss has blown up.

        Args:
            first: loss of the first step, where it is known.
        """
        if not math.isfinite(self.value):
            return f"{self.metric} is {self.value}"
        if self.metric != "held_out_loss" or first is None:
            return None
        if self.value <= first + (_DIVERGED - 1) * max(abs(first), _TINY):
            return None
        return (
            f"{self.metric} {self.value:.4g} is more than {_DIVERGED} times the loss of the first "
            f"step, {first:.4g}: the run has diverged (lower optim.lr, or set optim.clip_norm)"
        )

    @classmethod
    def among(cls, values: dict[str, float], epoch: int, step: int) -> dict[str, Self]:
        """The number among `values` that decides for each student (`NAME/knn`, or `knn` alone)."""
        found: dict[str, Self] = {}
        for metric in ("knn", "held_out_loss"):
            for key, value in values.items():
                student, _, last = key.rpartition("/")
                if last == metric:
                    found[student] = cls(metric, value, epoch, step)
        return found


@dataclass
class State:
    """The plain part of a checkpoint.

    Attributes:
        step: finished optimiser steps.
        evaluated: the last epoch whose end was dealt with.
        best: the best evaluation of each student.
        first: loss of each student at the first step.
        doubts: why the last evaluation of a student cannot be its best, where that is so.
        terms: mean of every loss over the last finished epoch.
        epoch_sums: losses of the epoch under way.
        curves: every evaluation of what decides, by the key it is logged under.
        flat: whether more epochs would bring nothing, as the last evaluation had it.
        unlogged: numbers of the last step that wait for an evaluation to be logged with.
        seconds: wall time of all sessions.
    """

    step: int = 0
    evaluated: int = 0
    best: dict[str, Best] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    epoch_sums: Totals = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    flat: bool = False
    unlogged: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As dicts and numbers, which a checkpoint may hold."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "State":
        """The inverse of `plain`."""
        best = {student: Best(**values) for student, values in plain["best"].items()}
        return cls(**(plain | {"best": best}))

    def add_losses(self, sums: Totals) -> None:
        """Count losses towards the mean of the epoch under way."""
        for name, (total, count) in sums.items():
            if name.startswith("loss"):
                before, n = self.epoch_sums.get(name, (0.0, 0))
                self.epoch_sums[name] = (before + total, n + count)

    def close_epoch(self) -> None:
        """Turn the sums of the finished epoch into `terms`."""
        self.terms = {name: total / n for name, (total, n) in self.epoch_sums.items()}
        self.epoch_sums = {}


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes:
        steps: optimiser steps.
        epochs: passes over the pictures.
        terms: mean over the last epoch of `loss` and of every `loss/TERM`.
        bests: the best evaluation of each student, as far as there was any.
        doubts: why the last evaluation of a student cannot be its best, where that is so.
        curves: every evaluation of what decides, by the key it is logged under.
        seconds: wall time over all sessions of the run.
        images_per_second: of the steps since the last start, over all ranks; 0 without any.
    """

    steps: int
    epochs: int
    terms: dict[str, float]
    bests: dict[str, Best]
    doubts: dict[str, str]
    curves: Curves
    seconds: float
    images_per_second: float

    @property
    def best(self) -> Best | None:
        """The best evaluation of a student without a name."""
        return self.bests.get("")
