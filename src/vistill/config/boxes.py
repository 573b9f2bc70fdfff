"""The typed configuration of object detection in pictures (spec kdep 11.3)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from vistill.config.section import (
    Count,
    Number,
    Part,
    Pixels,
    Positive,
    Range,
    Rate,
    Replaces,
    Section,
    Share,
    Size,
    Steps,
    over_recipe,
    rising,
)
from vistill.config.uses import needs

_PUBLISHED = {
    "channels": 256,
    "regions": 512,
    "distort": False,
    "min_steps": 0,
    "global_batch_size": 16,
}
_VITDET = _PUBLISHED | {
    "size": 1024,
    "scale": (0.1, 2.0),
    "head": "convolutional",
    "masks": True,
    "epochs": 100,
    "global_batch_size": 64,
    "lr": 1e-4,
    "drops": (0.889, 0.963),
    "warmup_epochs": 0.135,
    "warmup_share": 1e-3,
    "weight_decay": 0.1,
    "layer_decay": 0.7,
}
_KDEP = _PUBLISHED | {
    "size": 1344,
    "short_side": 800,
    "scale": (0.8, 1.0),
    "optimizer": "sgd",
    "lr": 0.02,
    "epochs": 12,
    "drops": (0.667, 0.889),
    "warmup_epochs": 0.136,
    "warmup_share": 1e-3,
    "weight_decay": 1e-4,
    "decay_biases": True,
    "layer_decay": 1.0,
    "drop_path": 0.0,
}
_KDEP_VOC = _KDEP | {"scale": (0.6, 1.0), "epochs": 17, "warmup_epochs": 0.097}
BOX_RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "vitdet_base": _VITDET,
    "vitdet_large": _VITDET | {"layer_decay": 0.8, "drop_path": 0.4},
    "kdep_coco_resnet18": _KDEP | {"masks": True},
    "kdep_coco_mobilenet_v2": _KDEP | {"norms": "frozen"},
    "kdep_voc_resnet18": _KDEP_VOC,
    "kdep_voc_mobilenet_v2": _KDEP_VOC | {"norms": "frozen"},
}
"""What a recipe sets; the fields' own defaults are `small`, ours for a few hundred pictures. KDEP's
90,000 and 18,000 steps of 16 are 12 epochs of COCO's 118,287 pictures and 17 of VOC07+12's
16,551."""


class BoxesConfig(Section):
    """Things in pictures and the boxes around them, by torchvision's Faster or Mask R-CNN on the
    backbone; trained and tested on the folder that `--data` names."""

    word: ClassVar[str] = "recipe"
    replaces: ClassVar[Replaces] = {"epochs": {"min_steps": 0}}

    recipe: str = Field(default="small")
    """`small`, ours for a few hundred pictures; ViTDet's for COCO, `vitdet_base` and
    `vitdet_large`; or KDEP's `kdep_coco_resnet18`, `kdep_coco_mobilenet_v2`, `kdep_voc_resnet18`,
    `kdep_voc_mobilenet_v2`."""
    layout: Literal["auto", "voc", "coco"] = Field(default="auto")
    """How the folder is laid out: as VOC is published (`Annotations/*.xml`), or with a `.json` of
    COCO's form for every part; `auto` looks which."""
    train: tuple[str, ...] | str = Field(default="train")
    """Part to learn from, or several; of VOC a list in `ImageSets/Main`, where the folder holds
    several years with a year, such as `VOC2007/trainval`; of COCO a part or the name of a file."""
    test: tuple[str, ...] | str = Field(default="val")
    """Part to test on, likewise."""
    train_pictures: Count | None = Field(default=None)
    """Learn from so many of the labelled pictures, drawn by the seed; default: all."""
    train_share: Part = Field(default=1.0, json_schema_extra=needs(train_pictures=None))
    """Learn from this share of the labelled pictures, drawn by the seed; smaller shares of one seed
    lie within larger ones."""
    masks: bool = Field(default=False)
    """Tell the shape of every thing, too (Mask R-CNN); annotations of COCO's form hold shapes."""
    size: Size | None = Field(default=None)
    """Side of the square, or height and width, that a whole picture is fitted into; default: the
    backbone's own."""
    short_side: Pixels | None = Field(default=None)
    """Shorter side of pictures in tests and at scale 1, as far as they fit into `size`; default: as
    large as they fit."""
    scale: Range = Field(default=(0.6, 1.4))
    """Smallest and largest scale of pictures that are learned from; of larger ones a random part is
    seen."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    distort: bool = Field(default=True)
    """Change brightness, contrast, saturation and hue, each in half of the pictures."""
    channels: Count = Field(default=128)
    """Width of the pyramid of maps and of the heads; their linear layers have four times as much
    (published: 256)."""
    anchors: Positive = Field(default=8.0)
    """Side of the square anchors, in steps of their map: with 8, 32 pixels on a map of step 4 up to
    512 on one of step 64. For small things in small pictures less."""
    regions: Count = Field(default=128)
    """Regions per picture that the head learns from, out of four times as many that are proposed;
    tests look at twice as many (published: 512)."""
    head: Literal["linear", "convolutional"] = Field(default="linear")
    """What classifies a region: two linear layers (Faster R-CNN); or four convolutions with layer
    norms and one linear layer, with norms in the mask's head and two convolutions that propose
    regions (ViTDet)."""
    norms: Literal["trained", "frozen"] = Field(default="trained")
    """Batch norms of the backbone: `frozen` keeps their statistics, scales and shifts as they came.
    """
    least_score: Share = Field(default=0.05)
    """Detections below this score are left out."""
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw")
    """SGD has a momentum of 0.9."""
    epochs: Count = Field(default=40)
    """Passes over the pictures."""
    min_steps: Steps = Field(default=800)
    """Optimiser steps at least: more epochs are run on few pictures. Giving `epochs` switches it
    off."""
    global_batch_size: Count = Field(default=8)
    """Pictures per optimiser step, at most the size of the training set."""
    micro_batch_size: Count | None = Field(default=None)
    """Pictures per forward pass; default: the global batch."""
    lr: Positive = Field(default=3e-4)
    """Peak learning rate, whatever the batch."""
    drops: Annotated[tuple[Share, ...], AfterValidator(rising)] = Field(default=())
    """Shares of the run after which the learning rate falls to a tenth; without one it falls along
    a cosine."""
    warmup_epochs: Number = Field(default=2.0)
    """Epochs of linear warm-up; at most a fifth of the run."""
    warmup_share: Share = Field(default=1e-3)
    """Share of the rate that the first step has."""
    weight_decay: Number = Field(default=0.05)
    """For matrices; biases and 1-D parameters never decay."""
    decay_biases: bool = Field(default=False)
    """Decay everything."""
    layer_decay: float = Field(default=0.75, gt=0.0, le=1.0)
    """Factor on the learning rate per layer below the heads."""
    drop_path: Rate = Field(default=0.1)
    """Stochastic depth of the last block, rising linearly from 0 in the first, where the backbone
    has it."""
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32")
    """Autocast type of backbone and pyramid in the training steps; the heads stay in fp32."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, values: Any) -> Any:
        return over_recipe(values, BOX_RECIPES, "boxes", cls.replaces)
