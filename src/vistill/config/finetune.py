"""The typed configuration of fine-tuning, and the published recipes of it (spec 7)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from vistill.config.clip_recipes import CLIP_RECIPES
from vistill.config.section import (
    Count,
    Frames,
    Number,
    PartRange,
    Positive,
    Rate,
    Replaces,
    Section,
    Share,
    Steps,
    Width,
    over_recipe,
    unique,
)
from vistill.config.uses import GIVEN, needs

Positions = Literal["anew", "interpolated"]
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
    `amd_base_ssv2`, `videomae_base_ucf101`, `videomae_base_hmdb51` and others; or UMT's:
    `umt_base_k710`, `umt_base_k400`, `umt_large_ssv2` and others."""
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
    """Epochs of linear warm-up; at most a fifth of the run, or as much of it as in the recipe."""
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
    head_init: Literal["small", "uniform"] = Field(
        default="small", json_schema_extra=needs(head="fresh")
    )
    """Weights of the fresh head: normal with std 2e-5 and no biases, or torch's own uniform
    ones."""
    head: str = Field(default="fresh")
    """What the head starts as: `fresh`; or that of a fine-tuned file or kept model, of which
    `first` takes a row for every class in order (of a classifier of Kinetics-710, those of
    Kinetics-400), and the path of a JSON list the rows that it numbers from 0."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    positions: Positions = Field(default="anew")
    """The fixed table of positions for clips of another size than the backbone's: its own, or the
    backbone's interpolated, bicubically in space and linearly in time, as UMT does."""
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
