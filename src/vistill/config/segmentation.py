"""The typed configuration of semantic segmentation (spec 9; spec kdep 11.2)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vistill.config.section import (
    Count,
    Number,
    Pixels,
    Positive,
    Range,
    Rate,
    Replaces,
    Section,
    Share,
    Steps,
    over_recipe,
)
from vistill.config.uses import needs

_TINYMIM = {
    "crop": 512,
    "short_side": 512,
    "long_side": 2048,
    "epochs": 127,
    "min_steps": 0,
    "global_batch_size": 16,
    "lr": 1e-4,
    "warmup_epochs": 1.19,
    "warmup_share": 1e-6,
    "layer_decay": 0.75,
    "drop_path": 0.1,
    "relative_bias": True,
    "decay_positions": True,
}
_KDEP = {
    "head": "pspnet",
    "crop": 512,
    "short_side": None,
    "long_side": 512,
    "scale": (0.5, 2.0),
    "most_of_a_class": 1.0,
    "rotate": 10.0,
    "blur": 0.5,
    "optimizer": "sgd",
    "epochs": 50,
    "min_steps": 0,
    "global_batch_size": 16,
    "lr": 0.01,
    "power": 0.9,
    "warmup_epochs": 0.0,
    "weight_decay": 1e-4,
    "decay_biases": True,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "flip_test": True,
}
SEGMENTATION_RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "tinymim_base": _TINYMIM,
    "tinymim_star": _TINYMIM | {"wide": True, "channels": 192, "layer_decay": 0.8},
    "kdep_voc": _KDEP | {"scale": (0.5, 1.5)},
    "kdep_ade20k": _KDEP | {"epochs": 100},
    "kdep_cityscapes": _KDEP | {"epochs": 200, "long_side": 2048},
}
"""What a recipe sets; the fields' own defaults are `small`, ours for a few hundred pictures.
`tinymim_base` is that of ADE20K, whose 160,000 steps of 16 are 127 epochs of its 20,210 pictures,
1,500 of them to warm up."""


class SegmentationConfig(Section):
    """The class of every pixel, by a head on the backbone's maps; trained and tested on pictures
    with masks, in the folder that `--data` names."""

    word: ClassVar[str] = "recipe"
    replaces: ClassVar[Replaces] = {"epochs": {"min_steps": 0}}

    recipe: str = Field(default="small")
    """`small`, ours for a few hundred pictures; TinyMIM's for ADE20K, `tinymim_base` and, for the
    tiny TinyMIM*, `tinymim_star`; or KDEP's `kdep_voc`, `kdep_ade20k`, `kdep_cityscapes`."""
    layout: Literal["auto", "folders", "voc", "ade20k"] = Field(default="auto")
    """How the folder is laid out: `folders` of pictures and of masks with the same names, or as VOC
    or ADE20K is published; `auto` looks which."""
    train: str = Field(default="train")
    """Part to learn from (of ADE20K `training`)."""
    test: str = Field(default="val")
    """Part to test on (of ADE20K `validation`)."""
    classes: tuple[str, ...] | str | None = Field(default=None)
    """Names of the classes in the order of their numbers in the masks, from 0, or a text file with
    a name a line; default: `classes.txt` in the folder, or the layout's own."""
    ignore: Annotated[int, Field(ge=0, le=255)] = Field(default=255)
    """Number of pixels in masks that are neither learned from nor tested."""
    head: Literal["uper", "linear", "pspnet"] = Field(default="uper")
    """UperNet; a linear layer on the last map; or PSPNet, for ResNets and MobileNetV2."""
    channels: Count = Field(default=128, json_schema_extra=needs(head="uper"))
    """Width of UperNet (published for a base model: 768)."""
    wide: bool = Field(default=False, json_schema_extra=needs(head="uper"))
    """Give the maps of a narrow plain ViT four times its width, as TinyMIM* does."""
    auxiliary: Number = Field(default=0.4, json_schema_extra=needs(head=("uper", "pspnet")))
    """Weight of the loss of a second head on an earlier map; 0 for none."""
    relative_bias: bool = Field(default=False)
    """Give every block of a plain ViT a relative position bias, and scales of its branches, that
    start without effect, as TinyMIM does for ADE20K."""
    crop: Pixels | None = Field(default=None)
    """Side of the square that is seen at once; default: the backbone's own."""
    short_side: Pixels | None = Field(default=None)
    """Shorter side of pictures in tests and at scale 1, as far as `long_side` allows; default: the
    crop, or with a `long_side` what that leaves."""
    long_side: Pixels | None = Field(default=None)
    """Longest side at scale 1; default: no limit."""
    scale: Range = Field(default=(0.5, 2.0))
    """Smallest and largest scale of pictures that are learned from."""
    most_of_a_class: Share = Field(default=0.75)
    """A crop of which one class fills more than this share is drawn again, up to ten times."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    distort: bool = Field(default=True)
    """Change brightness, contrast, saturation and hue, each in half of the pictures."""
    rotate: Number = Field(default=0.0, le=180.0)
    """Turn by up to so many degrees."""
    blur: Share = Field(default=0.0)
    """Probability of a Gaussian blur."""
    stride: Share = Field(default=2 / 3, gt=0.0)
    """Step of the window that slides over test pictures, as a share of its side."""
    flip_test: bool = Field(default=False)
    """Average the scores of a test picture and its mirror image."""
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw")
    """SGD has a momentum of 0.9."""
    epochs: Count = Field(default=40)
    """Passes over the pictures."""
    min_steps: Steps = Field(default=800)
    """Optimiser steps at least: more epochs are run on few pictures. Giving `epochs` switches it
    off."""
    global_batch_size: Count = Field(default=16)
    """Pictures per optimiser step, at most the size of the training set."""
    micro_batch_size: Count | None = Field(default=None)
    """Pictures per forward pass; default: the global batch."""
    lr: Positive = Field(default=5e-4)
    """Peak learning rate, whatever the batch."""
    power: Positive = Field(default=1.0)
    """The learning rate falls with this power of what is left of the run."""
    warmup_epochs: Number = Field(default=2.0)
    """Epochs of linear warm-up, which multiplies the falling rate; at most a fifth of the run."""
    warmup_share: Share = Field(default=1e-6)
    """Share of the rate that the first step has."""
    weight_decay: Number = Field(default=0.05)
    """For matrices; biases and 1-D parameters never decay."""
    decay_positions: bool = Field(default=False)
    """Decay the class token and the table of positions, too, as TinyMIM's code does."""
    decay_biases: bool = Field(default=False)
    """Decay everything."""
    layer_decay: float = Field(default=0.75, gt=0.0, le=1.0)
    """Factor on the learning rate per layer below the heads."""
    drop_path: Rate = Field(default=0.1)
    """Stochastic depth of the last block, rising linearly from 0 in the first, where the backbone
    has it."""
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32")
    """Autocast type of the training steps."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, values: Any) -> Any:
        return over_recipe(values, SEGMENTATION_RECIPES, "segmentation", cls.replaces)

    def idle(self, whole: Any) -> Mapping[str, str]:
        if self.head != "pspnet":
            return {}
        said = "with segmentation.head=pspnet, which has no layers"
        return {"segmentation.layer_decay": said, "segmentation.relative_bias": said}
