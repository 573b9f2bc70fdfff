"""How pictures or clips are read by everything that looks at a trained model."""

from typing import Literal

from pydantic import (
    Field,
)

from vistill.config.clip_recipes import Sampling
from vistill.config.section import (
    Count,
    Frames,
    Positive,
    Section,
    Size,
    ValueRange,
    Workers,
)

Pool = Literal["avg", "cls"]

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
    `segments`, `slices`, `intervals` and `sparse` go through all of it; default: as for `stride`,
    else `stretched`."""
    clips: Frames | None = Field(default=None)
    """Clips of every test video after fine-tuning; default: 5, or 2 where clips go through all of
    the video."""
    crops: Frames | None = Field(default=None)
    """Crops of every test clip after fine-tuning, along the longer side; default: 3."""


class EmbedConfig(SamplesConfig):
    """Settings of `vistill embed`."""

    pool: Pool = Field(default="avg")
    """Feature of a picture: mean of the patch tokens or the class token."""
