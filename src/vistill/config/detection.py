"""The typed configuration of action detection on AVA-format data (spec amd 11.4)."""

from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    model_validator,
)

from vistill.config.section import (
    Count,
    Frames,
    Number,
    Pixels,
    Positive,
    Rate,
    Replaces,
    Section,
    Share,
    Steps,
    over_recipe,
)
from vistill.config.uses import GIVEN, needs

DetectionSampling = Literal["dense", "uniform", "legacy_sparse"]


def _published(epochs: int, base_lr: float, layer_decay: float, **other: Any) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "min_steps": 0,
        "global_batch_size": 128,
        "base_lr": base_lr,
        "lr": None,
        "min_lr": 5e-7,
        "layer_decay": layer_decay,
        **other,
    }


DETECTION_RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "ava_small": _published(30, 1e-3, 0.6),
    "ava_small_finetuned": _published(30, 5e-4, 0.6),
    "ava_base": _published(30, 2.5e-4, 0.75),
    "ava_base_finetuned": _published(30, 5e-4, 0.75),
    "ava_large": _published(30, 2.5e-4, 0.75),
    "ava_large_finetuned": _published(20, 5e-4, 0.8),
    "ava_huge_finetuned": _published(20, 5e-4, 0.8),
    "ava_umt_base": _published(30, 2.5e-4, 0.75, sampling="uniform"),
    "ava_umt_large": _published(25, 2.5e-4, 0.85, sampling="uniform", drop_path=0.4),
}
"""What a recipe sets; the fields' own defaults are `small`. `finetuned` are those for a backbone
that learned Kinetics' classes after its pre-training; so are UMT's. AMD's authors published none of
their own."""


class DetectionConfig(Section):
    """What every person does on key frames of videos; trained and tested on files of AVA's format.

    Files are looked for in the folder that `--data` names.
    """

    word: ClassVar[str] = "recipe"
    replaces: ClassVar[Replaces] = {"base_lr": {"lr": None}, "epochs": {"min_steps": 0}}

    recipe: str = Field(default="small")
    """`small`, ours for a few hundred key frames, or VideoMAE's: `ava_small`, `ava_base`,
    `ava_large`, the same with `_finetuned`, and `ava_huge_finetuned`; or UMT's: `ava_umt_base`,
    `ava_umt_large`."""
    videos: str = Field(default="videos")
    """Folder of the video files, or folders of frames, which are named like the videos of the
    lists."""
    fps: Positive = Field(default=30.0)
    """Frames per second in folders of frames (AVA's usual extraction: 30)."""
    train: str = Field(default="train.csv")
    """Rows `video,seconds,x0,y0,x1,y1,action,person`, coordinates as shares of width and height."""
    test: str = Field(default="val.csv")
    """The same for the key frames to test on."""
    detections: str | None = Field(default=None)
    """Detected people of the test key frames: rows `video,seconds,x0,y0,x1,y1,,score`; default: the
    true boxes, which makes the task easier."""
    actions: str | None = Field(default=None)
    """Names of the actions that are tested (AVA's `.pbtxt`, or rows `number,name`); default: all
    that occur."""
    excluded: str | None = Field(default=None)
    """Key frames that tests leave out: rows `video,seconds`."""
    start_seconds: Number = Field(default=0.0)
    """Time in the lists at which the video files begin: 900 for AVA cut to the annotated part."""
    least_score: Share = Field(default=0.8, json_schema_extra=needs(detections=GIVEN))
    """Detected people below this score are left out."""
    sampling: DetectionSampling = Field(default="dense")
    """Which frames make a clip: every `stride`-th about the key frame; the middle ones of `frames`
    equal parts of `span`; or every `stride`-th about the middle of `span`, which UMT's code does
    where it is told to spread them."""
    span: Frames = Field(
        default=300, json_schema_extra=needs(sampling=("uniform", "legacy_sparse"))
    )
    """Frames of the video about the key frame."""
    short_side: Pixels | None = Field(default=None)
    """Shorter side of the frames in pixels; default: 8/7 of the backbone's (256 for 224)."""
    epochs: Count = Field(default=30)
    """Passes over the key frames."""
    min_steps: Steps = Field(default=400)
    """Optimiser steps at least: more epochs are run on few key frames. Giving `epochs` switches it
    off."""
    global_batch_size: Count = Field(default=16)
    """Key frames per optimiser step, at most the size of the training set."""
    micro_batch_size: Count | None = Field(default=None)
    """Key frames per forward pass; default: the global batch."""
    base_lr: Positive = Field(default=5e-4, json_schema_extra=needs(lr=None))
    """Learning rate for a batch of 256, scaled linearly."""
    lr: Positive | None = Field(default=5e-4)
    """Absolute peak learning rate, whatever the batch; giving `base_lr` switches it off."""
    min_lr: Number = Field(default=1e-6)
    """Learning rate at the end of the cosine."""
    warmup_epochs: Number = Field(default=5.0)
    """Epochs of linear warm-up; at most a quarter of the run."""
    weight_decay: Number = Field(default=0.05)
    """For matrices; biases and 1-D parameters never decay."""
    layer_decay: float = Field(default=0.75, gt=0.0, le=1.0)
    """Factor on the learning rate per layer below the head."""
    clip_norm: Positive | None = Field(default=None)
    """Clip the global gradient norm at this value; default: no clipping."""
    drop_path: Rate = Field(default=0.2)
    """Stochastic depth of the last block, rising linearly from 0 in the first."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip."""
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32")
    """Autocast type of the training steps."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_recipe(cls, values: Any) -> Any:
        return over_recipe(values, DETECTION_RECIPES, "detection", cls.replaces)
