"""The typed configuration of an evaluation: kNN, linear probe, fine-tuning (spec 7)."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from vistill.config.section import PartRange, Rate, Section, Share, unique
from vistill.config.suggest import did_you_mean

Protocol = Literal["knn", "linear", "finetune"]
Pool = Literal["avg", "cls"]


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
}
"""What a recipe sets; the fields' own defaults are `small`. Batch, learning rate, layer decay and
drop path of `tinymim_small` and `tinymim_tiny` are ours: their authors published none."""


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

    k: PositiveInt = Field(default=20)
    """Neighbours that vote; fewer where there are fewer labelled pictures."""
    temperature: PositiveFloat = Field(default=0.07)
    """A neighbour of cosine similarity s votes with weight exp(s / temperature)."""


class LinearProbeConfig(Section):
    """MAE's linear probe on features that are extracted once."""

    epochs: PositiveInt = Field(default=90)
    """Passes over the features."""
    min_steps: NonNegativeInt = Field(default=1000)
    """Optimiser steps at least: more epochs are run where the training set is small (0: as many as
    `epochs` says)."""
    batch_size: PositiveInt = Field(default=16384)
    """Features per step, at most the size of the training set."""
    base_lrs: tuple[PositiveFloat, ...] = Field(default=(0.1, 1.0, 10.0, 100.0), min_length=1)
    """Learning rates for a batch of up to 256, scaled linearly above; among several the best on a
    split of the training set is taken. Published: 0.1 alone, for 1.28 million pictures."""
    warmup_epochs: NonNegativeFloat = Field(default=10.0)
    """Epochs of linear warm-up from zero; at most a tenth of the run."""
    weight_decay: NonNegativeFloat = Field(default=0.0)
    """LARS adds it to the gradient of the weight matrix."""


class FineTuneConfig(Section):
    """Fine-tuning of the whole backbone with a linear head.

    The defaults are for a few hundred to a few thousand pictures, where the strong augmentation of
    the published recipes costs accuracy: its runs are hundreds of times longer. `recipe` replaces
    them by published settings, which other keys then override.
    """

    recipe: str = Field(default="small")
    """`small`, or published settings for ImageNet: `tinymim_base`, `tinymim_small`,
    `tinymim_tiny`, `mae_base`, `mae_large`, `mae_huge`, and `fd_...` for each recipe of feature
    distillation."""
    epochs: PositiveInt = Field(default=50)
    """Passes over the labelled pictures."""
    min_steps: NonNegativeInt = Field(default=400)
    """Optimiser steps at least: more epochs are run on small label budgets."""
    global_batch_size: PositiveInt = Field(default=64)
    """Pictures per optimiser step, at most the size of the training set."""
    micro_batch_size: PositiveInt | None = Field(default=None)
    """Pictures per forward pass; default: the global batch."""
    base_lr: PositiveFloat = Field(default=2e-3)
    """Learning rate for a batch of 256, scaled linearly."""
    lr: PositiveFloat | None = Field(default=1e-3)
    """Absolute peak learning rate, whatever the batch; giving `base_lr` switches it off."""
    min_lr: NonNegativeFloat = Field(default=1e-6)
    """Learning rate at the end of the cosine."""
    warmup_epochs: NonNegativeFloat = Field(default=5.0)
    """Epochs of linear warm-up; at most a fifth of the run."""
    warmup_lr: NonNegativeFloat = Field(default=0.0)
    """Learning rate at the start of the warm-up."""
    weight_decay: NonNegativeFloat = Field(default=0.05)
    """For matrices; biases, 1-D parameters, class token and position table never decay."""
    layer_decay: float = Field(default=0.75, gt=0.0, le=1.0)
    """Factor on the learning rate per layer below the head."""
    clip_norm: PositiveFloat | None = Field(default=None)
    """Clip the global gradient norm at this value; default: no clipping."""
    drop_path: Rate | None = Field(default=None)
    """Stochastic depth of the last block, rising linearly from 0 in the first; default: 0.1 where
    the backbone has stochastic depth."""
    mixup: float = Field(default=0.0, ge=0.0, le=2.0)
    """Parameter of mixup's Beta distribution (0: off)."""
    cutmix: float = Field(default=0.0, ge=0.0, le=2.0)
    """Parameter of CutMix's Beta distribution (0: off)."""
    mix_probability: Share = Field(default=1.0)
    """Share of the batches that are mixed."""
    switch_probability: Share = Field(default=0.5)
    """Share of CutMix among mixed batches where both are on."""
    label_smoothing: Rate = Field(default=0.1)
    """Probability spread evenly over all classes."""
    random_erasing: Share = Field(default=0.0)
    """Probability that a rectangle of a picture is replaced by noise."""
    rand_augment: str | None = Field(default=None)
    """RandAugment in timm's notation, such as `rand-m9-mstd0.5-inc1`; default: off."""
    crop_scale: PartRange = Field(default=(0.3, 1.0))
    """Smallest and largest share of the picture's area that a random crop covers."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    reset_last_block: Literal["keep", "zero_residual"] = Field(default="keep")
    """`zero_residual` sets the last block's output projections to zero. TinyMIM does not train
    them, so that they arrive with their initial values."""
    num_heads: PositiveInt | None = Field(default=None)
    """Split every block into this many heads; default: as the backbone has them."""
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32")
    """Autocast type of the training steps."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("recipe", "small")
        if not isinstance(name, str) or name not in FINETUNE_RECIPES:
            hint = did_you_mean(str(name), FINETUNE_RECIPES)
            raise ValueError(f"unknown fine-tuning recipe {name!r}{hint}")
        recipe = dict(FINETUNE_RECIPES[name])
        if "base_lr" in values:
            recipe["lr"] = None
        return {**recipe, **values}


class EvaluateConfig(Section):
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
    protocols: Annotated[tuple[Protocol, ...], AfterValidator(unique)] = Field(
        default=("knn", "linear", "finetune"), min_length=1
    )
    """How the backbone is measured."""
    budgets: Annotated[tuple[Budget, ...], AfterValidator(unique)] = Field(
        default=(1.0,), min_length=1
    )
    """Shares of the training labels (0.01, 0.1, 1.0), or `N/class`."""
    seeds: Annotated[tuple[NonNegativeInt, ...], AfterValidator(unique)] = Field(
        default=(0,), min_length=1
    )
    """One result per seed: it draws the labels, the head and the order of the pictures."""
    image_size: PositiveInt | None = Field(default=None)
    """Side of the square input; default: the backbone's own."""
    pool: Pool = Field(default="avg")
    """Feature of a picture: mean of the patch tokens or the class token."""
    batch_size: PositiveInt = Field(default=64)
    """Pictures per forward pass where nothing is trained."""
    workers: int | None = Field(default=None, ge=0)
    """Loader processes (0: none); default: up to 8, by the number of cores."""
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto")
    """Where to compute; `auto` takes CUDA where there is one."""
    knn: KNNConfig = Field(default_factory=KNNConfig)
    linear: LinearProbeConfig = Field(default_factory=LinearProbeConfig)
    finetune: FineTuneConfig = Field(default_factory=FineTuneConfig)
