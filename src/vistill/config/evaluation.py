"""The typed configuration of an evaluation: kNN, linear probe, fine-tuning (spec 7)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from vistill.config.clip_recipes import CLIP_RECIPES, Sampling
from vistill.config.detection import DetectionConfig
from vistill.config.section import (
    Count,
    Frames,
    Number,
    PartRange,
    Positive,
    Rate,
    Replaces,
    Section,
    Seed,
    Share,
    Size,
    Steps,
    ValueRange,
    Width,
    Workers,
    over_recipe,
    unique,
)
from vistill.config.suggest import shown
from vistill.config.uses import GIVEN, needs

Protocol = Literal["knn", "linear", "finetune", "test", "detection"]
Pool = Literal["avg", "cls"]
Statistics = Literal["own", "none", "imagenet", "clip", "cifar100"]


def _published(
    epochs: int,
    base_lr: float,
    layer_decay: float,
    drop_path: float,
    global_batch_size: int = 1024,
    num_heads: int | None = None,
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "min_steps": 0,
        "global_batch_size": global_batch_size,
        "base_lr": base_lr,
        "lr": None,
        "layer_decay": layer_decay,
        "drop_path": drop_path,
        "mixup": 0.8,
        "cutmix": 1.0,
        "random_erasing": 0.25,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "crop_scale": (0.08, 1.0),
        "num_heads": num_heads,
    }


_FD = {"warmup_epochs": 20, "warmup_lr": 1e-6, "min_lr": 1e-6, "clip_norm": 5.0}

_KDEP = {
    "optimizer": "sgd",
    "schedule": "step",
    "decay_biases": True,
    "epochs": 150,
    "min_steps": 0,
    "global_batch_size": 64,
    "lr": 1e-3,
    "warmup_epochs": 0.0,
    "weight_decay": 5e-4,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "label_smoothing": 0.0,
    "crop_scale": (0.08, 1.0),
    "interpolation": "bilinear",
    "head_init": "uniform",
    "test_every": 5,
}

FINETUNE_RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "tinymim_base": _published(100, 5e-4, 0.65, 0.2),
    "tinymim_small": _published(100, 5e-4, 0.75, 0.1, 2048),
    "tinymim_tiny": _published(100, 1e-3, 0.8, 0.0, 2048, num_heads=3),
    "mae_base": _published(100, 5e-4, 0.65, 0.1),
    "mae_large": _published(50, 1e-3, 0.75, 0.2),
    "mae_huge": _published(50, 1e-3, 0.75, 0.3),
    "fd_clip_base": _published(100, 6.25e-4, 0.6, 0.3, 2048) | _FD,
    "fd_clip_base_100ep": _published(100, 6.25e-4, 0.65, 0.1, 2048) | _FD,
    "fd_clip_large": _published(50, 1.25e-4, 0.75, 0.4, 2048)
    | _FD
    | {"warmup_epochs": 5, "warmup_lr": 2e-6, "min_lr": 2e-6},
    "fd_deit_base": _published(100, 6.25e-4, 0.65, 0.3, 2048) | _FD,
    "fd_dino_base": _published(100, 7.5e-4, 0.6, 0.2, 2048) | _FD,
    "fd_esvit_swin": _published(100, 6.25e-4, 0.8, 0.4, 1024)
    | _FD
    | {"warmup_lr": 5e-7, "min_lr": 5e-7},
    "kdep": _KDEP | {"normalization": "none"},
    "kdep_cifar100": _KDEP | {"normalization": "cifar100"},
    "kdep_cub": _KDEP | {"normalization": "none", "lrs": (1e-3, 1e-2)},
    "kdep_sweep": _KDEP
    | {"lrs": (1e-3, 3e-3, 1e-2, 3e-2), "weight_decays": (1e-4, 5e-4), "test_every": None},
    **CLIP_RECIPES,
}
"""What a recipe sets; the fields' own defaults are `small`. Batch, learning rate, layer decay and
drop path of `tinymim_small` and `tinymim_tiny` are ours: their authors published none. So are the
grid and the own normalisation of `kdep_sweep`, which is for any labelled pictures; the other three
are spec kdep 11.1, whose authors leave the pictures of three data sets as they are."""


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


class FineTuneConfig(Section):
    """Fine-tuning of the whole backbone with a linear head.

    The defaults are for a few hundred to a few thousand pictures, where the strong augmentation of
    the published recipes costs accuracy: its runs are hundreds of times longer. `recipe` replaces
    them by published settings, which other keys then override.
    """

    word: ClassVar[str] = "recipe"
    replaces: ClassVar[Replaces] = {
        "base_lr": {"lr": None, "lrs": ()},
        "lr": {"lrs": ()},
        "weight_decay": {"weight_decays": ()},
        "epochs": {"min_steps": 0},
    }

    recipe: str = Field(default="small")
    """`small`, or published settings for ImageNet: `tinymim_base`, `tinymim_small`,
    `tinymim_tiny`, `mae_base`, `mae_large`, `mae_huge`, and `fd_...` for each recipe of feature
    distillation; or SGD as KDEP transfers: `kdep` (DTD, Caltech-256), `kdep_cifar100`, `kdep_cub`,
    and `kdep_sweep` for any pictures; or those of AMD and VideoMAE for clips: `amd_small_k400`,
    `amd_base_ssv2`, `videomae_base_ucf101`, `videomae_base_hmdb51` and others."""
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw")
    """SGD is without Nesterov's rule and without dampening."""
    momentum: Rate = Field(default=0.9, json_schema_extra=needs(optimizer="sgd"))
    """Of SGD."""
    schedule: Literal["cosine", "step"] = Field(default="cosine")
    """After the warm-up: a cosine, or `lr * gamma^floor(epoch / step_epochs)`."""
    step_epochs: Count | None = Field(default=None, json_schema_extra=needs(schedule="step"))
    """Epochs between the drops of the step schedule; default: a third of the run."""
    gamma: Positive = Field(default=0.1, json_schema_extra=needs(schedule="step"))
    """Factor of each drop."""
    lrs: Annotated[tuple[Positive, ...], AfterValidator(unique)] = Field(default=())
    """Peak learning rates to choose among, instead of `lr`. Each is tried on a part of the training
    pictures and judged by the rest; the best is trained again on all of them."""
    weight_decays: Annotated[tuple[Number, ...], AfterValidator(unique)] = Field(default=())
    """Weight decays to choose among in the same way, each with each learning rate."""
    validation_share: Share = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the chosen training pictures that judges learning rates and weight decays."""
    test_every: Count | None = Field(default=None)
    """Also test every so many epochs and report the best, which is chosen on test pictures, as
    KDEP's authors do; default: test the last weights only."""
    epochs: Count = Field(default=50)
    """Passes over the labelled pictures."""
    min_steps: Steps = Field(default=400)
    """Optimiser steps at least: more epochs are run on small label budgets. Giving `epochs`
    switches it off."""
    global_batch_size: Count = Field(default=64)
    """Pictures per optimiser step, at most the size of the training set."""
    micro_batch_size: Count | None = Field(default=None)
    """Pictures per forward pass; default: the global batch, of clips 16 views."""
    repeats: Frames = Field(default=1)
    """Views of every clip in a step, which is decoded once; they do not count in the batch."""
    base_lr: Positive = Field(default=2e-3, json_schema_extra=needs(lr=None, lrs=None))
    """Learning rate for a batch of 256, scaled linearly."""
    lr: Positive | None = Field(default=1e-3, json_schema_extra=needs(lrs=None))
    """Absolute peak learning rate, whatever the batch; giving `base_lr` switches it off."""
    min_lr: Number = Field(default=1e-6, json_schema_extra=needs(schedule="cosine"))
    """Learning rate at the end of the cosine."""
    warmup_epochs: Number = Field(default=5.0)
    """Epochs of linear warm-up; at most a fifth of the run."""
    warmup_lr: Number = Field(default=0.0, json_schema_extra=needs(warmup_epochs=GIVEN))
    """Learning rate at the start of the warm-up."""
    weight_decay: Number = Field(default=0.05, json_schema_extra=needs(weight_decays=None))
    """For matrices; biases, 1-D parameters, class token and position table never decay."""
    decay_biases: bool = Field(default=False)
    """Decay them as well."""
    layer_decay: float = Field(default=0.75, gt=0.0, le=1.0)
    """Factor on the learning rate per layer below the head."""
    clip_norm: Positive | None = Field(default=None)
    """Clip the global gradient norm at this value; default: no clipping."""
    drop_path: Rate | None = Field(default=None)
    """Stochastic depth of the last block, rising linearly from 0 in the first; default: 0.1 where
    the backbone has stochastic depth."""
    head_dropout: Rate = Field(default=0.0)
    """Dropout of the feature in front of the head."""
    mixup: Number = Field(default=0.0, le=2.0)
    """Parameter of mixup's Beta distribution (0: off)."""
    cutmix: Number = Field(default=0.0, le=2.0)
    """Parameter of CutMix's Beta distribution (0: off)."""
    mix_probability: Share = Field(default=1.0)
    """Share of the batches that are mixed."""
    switch_probability: Share = Field(
        default=0.5, json_schema_extra=needs(mixup=GIVEN, cutmix=GIVEN)
    )
    """Share of CutMix among mixed batches where both are on."""
    label_smoothing: Rate = Field(default=0.1)
    """Probability spread evenly over all classes."""
    random_erasing: Share = Field(default=0.0)
    """Probability that a rectangle of a picture is replaced by noise."""
    rand_augment: str | None = Field(default=None)
    """RandAugment in timm's notation, such as `rand-m9-mstd0.5-inc1`; default: off."""
    crop_scale: PartRange = Field(default=(0.3, 1.0))
    """Smallest and largest share of the picture's area that a random crop covers."""
    interpolation: Literal["bicubic", "bilinear"] = Field(default="bicubic")
    """How pictures are resized, in training and in tests."""
    normalization: Statistics = Field(default="own")
    """Mean and std of the inputs: the backbone's own, or `none`, `imagenet`, `clip`, `cifar100`."""
    test_normalization: Statistics | None = Field(default=None)
    """The same in tests; feature distillation's authors test with `clip`. Default: as in
    training."""
    head_init: Literal["small", "uniform"] = Field(default="small")
    """Weights of the fresh head: normal with std 2e-5 and no biases, or torch's own uniform
    ones."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    reset_last_block: Literal["keep", "zero_residual"] = Field(default="keep")
    """`zero_residual` sets the last block's output projections to zero. TinyMIM does not train
    them, so that they arrive with their initial values."""
    num_heads: Width | None = Field(default=None)
    """Split every block into this many heads; default: as the backbone has them."""
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32")
    """Autocast type of the training steps."""
    keep: str | None = Field(default=None)
    """A new folder for the fine-tuned models, one for every label budget and seed, which the
    protocol `test` takes; default: they are not kept."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, values: Any) -> Any:
        return over_recipe(values, FINETUNE_RECIPES, "fine-tuning", cls.replaces)

    def idle(self, whole: Any) -> Mapping[str, str]:
        found = {}
        if not self.mixup and not self.cutmix:
            found["finetune.mix_probability"] = "without finetune.mixup or finetune.cutmix"
        if len(self.lrs) < 2 and len(self.weight_decays) < 2:
            found["finetune.validation_share"] = "without several lrs or weight_decays to judge"
        return found


CLIP_KEYS = ("frames", "stride", "sampling", "clips", "crops")
"""Settings of an evaluation that pictures do not have."""


class SamplesConfig(Section):
    """How pictures or clips are read by everything that looks at a trained model."""

    root: str | None = Field(default=None)
    """Folder at which relative paths of lists start; default: each list's own."""
    image_size: Size | None = Field(default=None)
    """Side of the square input in pixels, or `[height, width]`; default: the backbone's own."""
    value_range: ValueRange | None = Field(default=None)
    """Of pictures with more than 8 bits: the numbers that become black and white; default: as the
    run was trained with, else 0 and 65535, of floats 0 and 1."""
    allow_truncated: bool = Field(default=False)
    """Use JPEGs of which nothing but the end marker is missing; they are left out otherwise."""
    batch_size: Count | None = Field(default=None)
    """Pictures or clips per forward pass where nothing is trained; default: 64 pictures, 8 clips.
    """
    workers: Workers | None = Field(default=None)
    """Loader processes (0: none); default: up to 8, by the number of cores."""
    timeout: Positive = Field(default=300.0)
    """Seconds that reading one picture or clip may take before the evaluation stops."""
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto")
    """Where to compute; `auto` takes CUDA where there is one."""
    frames: Frames | None = Field(default=None)
    """Frames per clip; default: the backbone's own."""
    stride: Frames | None = Field(default=None)
    """Frames of the video per frame of a clip; default: as published with `finetune.recipe`, else
    as the run was trained with, else 4."""
    sampling: Sampling | None = Field(default=None)
    """Which frames make a training clip: `dense` and `stretched` take a stretch of the video,
    `segments` and `sparse` go through all of it; default: as for `stride`, else `stretched`."""
    clips: Frames | None = Field(default=None)
    """Clips of every test video after fine-tuning; default: 5, or 2 where clips go through all of
    the video."""
    crops: Frames | None = Field(default=None)
    """Crops of every test clip after fine-tuning, along the longer side; default: 3."""


class EmbedConfig(SamplesConfig):
    """Settings of `vistill embed`."""

    pool: Pool = Field(default="avg")
    """Feature of a picture: mean of the patch tokens or the class token."""


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
    knn: KNNConfig = Field(default_factory=KNNConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    finetune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    detection: DetectionConfig = Field(default_factory=DetectionConfig)

    @field_validator("protocols")
    @classmethod
    def _some_alone(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        for name, why in (("detection", "has data of its own kind"), ("test", "learns nothing")):
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
        for name in {"knn", "linear", "finetune", "detection"} - set(self.protocols):
            found[name] = f"{said}; it needs {name} among them"
        if self.finetune.recipe in CLIP_RECIPES and "finetune" in found:
            why = found.pop("finetune")  # the recipe says how clips are taken in every protocol
            keys = set(FineTuneConfig.model_fields) - {"recipe"}
            found |= {f"finetune.{key}": why for key in keys}
        idle: tuple[str, ...] = ()
        if "detection" in self.protocols:
            idle = ("test", "test_share", "train_first", "budgets", "pool", "batch_size")
            idle += ("sampling", "clips", "crops")
        elif "test" in self.protocols:
            idle = ("test_share", "train_first", "budgets", "seeds", "pool")
        elif "finetune" not in self.protocols:
            idle = ("clips", "crops")
        found |= dict.fromkeys(idle, said)
        if self.test is not None or self.train_first is not None:
            split = "test" if self.test is not None else "train_first"
            found.setdefault("test_share", f"beside {split}={getattr(self, split)}")
        return found
