"""The typed configuration of an evaluation: kNN, linear probe, fine-tuning (spec 7)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from vistill.config.boxes import BoxesConfig
from vistill.config.clip_recipes import CLIP_RECIPES
from vistill.config.detection import DetectionConfig
from vistill.config.finetune import FineTuneConfig
from vistill.config.retrieval import AnsweringConfig, RetrievalConfig
from vistill.config.robustness import RobustnessConfig
from vistill.config.samples import Pool, SamplesConfig
from vistill.config.section import (
    Count,
    Number,
    Positive,
    Section,
    Seed,
    Share,
    Steps,
    unique,
)
from vistill.config.segmentation import SegmentationConfig
from vistill.config.suggest import shown

_READING = ("retrieval", "multiple-choice", "questions")
"""Of models that read."""
Protocol = Literal[
    "knn",
    "linear",
    "finetune",
    "test",
    "robustness",
    "detection",
    "segmentation",
    "boxes",
    "retrieval",
    "multiple-choice",
    "questions",
]
_SECTIONS = {"knn", "linear", "finetune", "detection", "segmentation", "boxes", "retrieval"}
_SECTIONS |= {"questions", "robustness"}
"""Protocols with options."""
_ALONE = {
    "detection": "has data of its own kind",
    "segmentation": "has masks for labels",
    "boxes": "has boxes for labels",
    "retrieval": "has captions for labels",
    "multiple-choice": "has captions for labels",
    "questions": "has answers for labels",
    "test": "learns nothing",
    "robustness": "learns nothing",
}


def check_budget(budget: float | str) -> float | str:
    """A share of the labels in (0, 1], or `N/class` with N at least 1.

    Raises:
        ValueError: says what a budget looks like.
    """
    if isinstance(budget, str):
        count, slash, unit = budget.partition("/")
        if slash and unit == "class" and count.isdigit() and int(count) > 0:
            return budget
    elif 0 < budget <= 1:
        return float(budget)
    raise ValueError(f"a label budget is a share above 0 and up to 1, or 'N/class', not {budget!r}")


Budget = Annotated[float | str, AfterValidator(check_budget)]


class KNNConfig(Section):
    """Weighted nearest neighbours (Wu et al., arXiv 1805.01978; as in DINO)."""

    k: Count = Field(default=20)
    """Neighbours that vote; fewer where there are fewer labelled pictures."""
    temperature: Positive = Field(default=0.07)
    """A neighbour of cosine similarity s votes with weight exp(s / temperature)."""


class LinearProbeConfig(Section):
    """MAE's linear probe on features that are extracted once."""

    epochs: Count = Field(default=90)
    """Passes over the features."""
    min_steps: Steps = Field(default=1000)
    """Optimiser steps at least: more epochs are run where the training set is small. Giving
    `epochs` switches it off."""
    batch_size: Count = Field(default=16384)
    """Features per step, at most the size of the training set."""
    base_lrs: tuple[Positive, ...] = Field(default=(0.1, 1.0, 10.0, 100.0), min_length=1)
    """Learning rates for a batch of up to 256, scaled linearly above; among several the best on a
    split of the training set is taken. Published: 0.1 alone, for 1.28 million pictures."""
    warmup_epochs: Number = Field(default=10.0)
    """Epochs of linear warm-up from zero; at most a ninth of the run, the published share."""
    weight_decay: Number = Field(default=0.0)
    """LARS adds it to the gradient of the weight matrix."""

    @model_validator(mode="before")
    @classmethod
    def _as_many_epochs_as_are_said(cls, values: Any) -> Any:
        said = isinstance(values, dict) and "epochs" in values
        return {"min_steps": 0} | values if said else values


class EvaluateConfig(SamplesConfig):
    """Everything that defines an evaluation."""

    model: str | None = Field(default=None)
    """The backbone: `run:PATH`, `file:PATH`, `timm/NAME[:pretrained]`, or `vit_small` and the like
    with random weights."""
    weights: Literal["random"] | None = Field(default=None)
    """`random` must be said aloud; otherwise the weights have to come from somewhere."""
    train: str | None = Field(default=None)
    """Labelled pictures to learn from: a folder, list, shards or zip."""
    test: str | None = Field(default=None)
    """Labelled pictures to test on; default: a stratified part of `train`."""
    test_share: Share = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of `train` that is tested on where there is no `test`."""
    train_first: Count | None = Field(default=None)
    """Where there is no `test`: learn from the first so many pictures of every class and test on
    the others, instead of `test_share` (Caltech-256: 60)."""
    protocols: Annotated[tuple[Protocol, ...], AfterValidator(unique)] = Field(
        default=("knn", "linear", "finetune"), min_length=1
    )
    """How the backbone is measured."""
    budgets: Annotated[tuple[Budget, ...], AfterValidator(unique)] = Field(
        default=(1.0,), min_length=1
    )
    """Shares of the training labels (0.01, 0.1, 1.0), or `N/class`."""
    seeds: Annotated[tuple[Seed, ...], AfterValidator(unique)] = Field(default=(0,), min_length=1)
    """One result per seed: it draws the labels, the head and the order of the pictures."""
    pool: Pool = Field(default="avg")
    """Feature of a picture: mean of the patch tokens or the class token."""
    among: Literal["data", "all"] = Field(default="data")
    """Of a trained classifier the scores of the classes in the data alone are compared, as
    ImageNet-A and ImageNet-R are evaluated, or those of all its classes."""
    knn: KNNConfig = Field(default_factory=KNNConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    finetune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    robustness: RobustnessConfig = Field(default_factory=RobustnessConfig)
    detection: DetectionConfig = Field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = Field(default_factory=SegmentationConfig)
    boxes: BoxesConfig = Field(default_factory=BoxesConfig)
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    questions: AnsweringConfig = Field(default_factory=AnsweringConfig)

    @field_validator("protocols")
    @classmethod
    def _some_alone(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        for name, why in _ALONE.items():
            if name in protocols and len(protocols) > 1:
                raise ValueError(f"{name} {why}, so it cannot share a run with others")
        return protocols

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if self.train_first is not None and self.test is not None:
            raise ValueError(
                f"train_first={self.train_first} takes the test pictures from train, but test="
                f"{self.test} gives others; leave one of them out"
            )
        return self

    def idle(self, whole: Any) -> Mapping[str, str]:
        found: dict[str, str] = {}
        said = f"with protocols={shown(self.protocols)}"
        for name in _SECTIONS - set(self.protocols):
            found[name] = f"{said}; it needs {name} among them"
        if self.finetune.recipe in CLIP_RECIPES and "finetune" in found:
            why = found.pop("finetune")  # the recipe says how clips are taken in every protocol
            keys = set(FineTuneConfig.model_fields) - {"recipe"}
            found |= {f"finetune.{key}": why for key in keys}
        idle: tuple[str, ...] = ()
        if "detection" in self.protocols:
            idle = ("test", "test_share", "train_first", "budgets", "pool", "batch_size")
            idle += ("sampling", "clips", "crops")
            if self.detection.sampling == "uniform":
                found["stride"] = "with detection.sampling=uniform"
        elif {"segmentation", "boxes"} & set(self.protocols):
            idle = ("test", "test_share", "train_first", "budgets", "pool", "batch_size", "root")
            idle += ("frames", "stride", "sampling", "clips", "crops")
        elif set(_READING) & set(self.protocols):
            idle = ("test", "test_share", "train_first", "budgets", "seeds", "pool", "image_size")
            idle += ("clips", "crops")
        elif "test" in self.protocols:
            idle = ("test_share", "train_first", "budgets", "seeds", "pool")
        elif "robustness" in self.protocols:
            idle = ("test_share", "train_first", "budgets", "seeds", "pool")
            idle += ("frames", "stride", "sampling", "clips", "crops")
        elif "finetune" not in self.protocols:
            idle = ("clips", "crops")
        if not {"test", "robustness"} & set(self.protocols):
            idle += ("among",)
        found |= dict.fromkeys(idle, said)
        if self.test is not None or self.train_first is not None:
            split = "test" if self.test is not None else "train_first"
            found.setdefault("test_share", f"beside {split}={getattr(self, split)}")
        return found
