"""The labelled samples of one evaluation, as evaluators see them, and the table that they give.

An evaluator is a function `evaluate(model, data, options, world) -> table`; those that classify
give `Answers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.config.evaluation import EvaluateConfig
from vistill.data import BrokenFiles
from vistill.errors import UserError
from vistill.evaluation.features import Features, collect, pooling
from vistill.evaluation.inputs import Inputs, workers_of
from vistill.evaluation.labelled import Labelled
from vistill.evaluation.lengths import Length
from vistill.evaluation.metrics import Tried
from vistill.models.backbone import Backbone
from vistill.training.distributed import World
from vistill.training.progress import tell


class Split(NamedTuple):
    """Features to learn from and features to test, on the device of the evaluation.

    Attributes:
        bank: features with labels.
        labels: their classes.
        queries: features to classify.
        truth: their classes, on the host.
        broken: test samples that could not be read.
    """

    bank: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    queries: Float[Tensor, "m d"]
    truth: Int[Tensor, " m"]
    broken: tuple[str, ...] = ()


class KnownFeatures(Protocol):
    """What evaluators of frozen features ask for."""

    @property
    def num_classes(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def noun(self) -> str: ...
    def split(self, model: Backbone) -> Split: ...
    def note(self, length: Length) -> None: ...


@dataclass(frozen=True)
class Extracted:
    """Features that are there already, for evaluators of frozen features; see `KnownFeatures`."""

    found: Split
    num_classes: int
    seed: int = 0
    noun: str = "picture"

    def split(self, model: Backbone) -> Split:
        """The features, whatever the model."""
        return self.found

    def note(self, length: Length) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Answers:
    """Class scores of the test samples that can be read, on the host.

    Attributes:
        scores: one row per test sample.
        labels: the true classes.
        labels_used: samples that were learned from.
        seconds: wall-clock time, without features that evaluators share.
        broken: names of test samples that could not be read.
        best_top1: best accuracy of the tests during training.
        tried: settings that were tried.
    """

    scores: Float[Tensor, "m c"]
    labels: Int[Tensor, " m"]
    labels_used: int
    seconds: float
    broken: tuple[str, ...] = ()
    best_top1: float | None = None
    tried: tuple[Tried, ...] = ()

    @property
    def top1(self) -> float:
        """Share of the samples whose highest score is that of their class."""
        return float((self.scores.argmax(dim=1) == self.labels).float().mean())


@dataclass
class Pictures:
    """Labelled pictures or clips; features are extracted when first asked for and kept, also by
    what `dataclasses.replace` makes of this.

    Attributes:
        train, test: to learn from and to test on.
        num_classes: classes of both.
        inputs: what is seen of a sample.
        config: everything else that was asked for.
        world: the ranks that share the reading.
        progress: whether to show anything.
        head: weights that a fine-tuning's head starts from.
        chosen: positions of the training samples whose labels are used.
        seed: of the head and the order.
        folder: where a fine-tuned model is kept.
    """

    train: Labelled
    test: Labelled
    num_classes: int
    inputs: Inputs
    config: EvaluateConfig
    world: World
    progress: bool
    head: Mapping[str, Tensor] | None
    chosen: np.ndarray
    seed: int
    folder: Path | None = None
    extracted: dict[bool, Features] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    logged: set[str] = field(default_factory=set)

    @property
    def noun(self) -> str:
        """What a sample is called."""
        return self.train.source.media.noun

    def say(self, text: str) -> None:
        """A line on standard error."""
        if self.progress:
            tell(text)

    def note(self, length: Length) -> None:
        """Say once what of its settings a training on few samples leaves out."""
        if length.note is not None and length.note not in self.told:
            self.told.add(length.note)
            self.say(length.note)

    def say_unread(self, names: tuple[str, ...]) -> None:
        """Say once which test samples cannot be read."""
        new = sorted(set(names) - self.told)
        if new:
            self.say(f"{len(new)} unreadable test {self.noun}s are left out: {', '.join(new)}")
            self.told.update(new)

    def split(self, model: Backbone) -> Split:
        """Features of the chosen training samples and of the test samples.

        Raises:
            UserError: fewer than two of the chosen ones can be read.
        """
        train = self._features(model, test=False)
        rows = torch.from_numpy(np.isin(train.ids.numpy(), self.chosen))
        if int(rows.sum()) < 2:
            raise UserError(
                f"fewer than two of the chosen {self.noun}s of {self.train.source.name} can be read"
            )
        labels = torch.from_numpy(self.train.classes)[train.ids[rows]]
        test, device = self._features(model, test=True), self.world.device
        return Split(
            train.features[rows].to(device),
            labels.to(device),
            test.features.to(device),
            self.truth(test),
            tuple(sorted(test.broken)),
        )

    def truth(self, found: Features) -> Int[Tensor, " m"]:
        """Classes of test samples."""
        return torch.from_numpy(self.test.classes)[found.ids]

    def account(self, part: Labelled, indices: np.ndarray) -> BrokenFiles:
        """Of samples that cannot be read, each of which is logged once for all evaluators."""
        noun = part.source.media.noun
        return BrokenFiles(len(indices), max_share=1.0, told=self.logged, noun=noun)

    def _features(self, model: Backbone, *, test: bool) -> Features:
        if test not in self.extracted:
            part = self.test if test else self.train
            self.extracted[test] = collect(
                model,
                pooling(model, self.config.pool),
                part.source,
                part.indices,
                inputs=self.inputs.middle,
                batch_size=self.config.batch_size or self.inputs.at_once,
                workers=workers_of(self.config, self.world.size),
                device=self.world.device,
                progress=f"features of {part.source.name}" if self.progress else None,
                broken=self.account(part, part.indices),
                world=self.world,
            )
        return self.extracted[test]
