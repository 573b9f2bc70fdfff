"""What a run trains on and how it is read. Plain data."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vistill.config.clip_recipes import Sampling
from vistill.config.section import (
    Frames,
    PartRange,
    Positive,
    Range,
    Rate,
    Section,
    Share,
    Size,
    ValueRange,
    Workers,
)
from vistill.config.uses import GIVEN, needs


class DataConfig(Section):
    """Pictures or clips to train on and how they are cropped."""

    train: str | None = Field(default=None)
    """A folder, a `.txt`, `.csv`, `.tsv`, `.jsonl` or `.parquet` list, `.tar` shards, or a `.zip`;
    several of a kind by a glob."""
    root: str | None = Field(default=None)
    """Folder at which relative paths of a list start; default: the list's own."""
    image_size: Size = Field(default=224)
    """Side of the square crop in pixels, or `[height, width]`."""
    crop_scale: PartRange = Field(default=(0.2, 1.0), json_schema_extra=needs(crop="resized"))
    """Smallest and largest share of the picture's area that a random crop covers."""
    crop_ratio: Range = Field(default=(3 / 4, 4 / 3), json_schema_extra=needs(crop="resized"))
    """Smallest and largest aspect ratio of a random crop, where 1 is that of `image_size`: by so
    much it is stretched."""
    interpolation: Literal["bicubic", "bilinear"] = Field(default="bicubic")
    """How crops are resized; default for clips: bilinear."""
    flip: Share = Field(default=0.5)
    """Probability of a horizontal flip; default for clips: 0."""
    frames: Frames | None = Field(default=None)
    """Frames of a clip; none: pictures."""
    stride: Frames = Field(
        default=4, json_schema_extra=needs(frames=GIVEN, sampling=("dense", "stretched"))
    )
    """Frames of the video per frame of a clip, for `dense` and `stretched`."""
    sampling: Sampling = Field(default="dense", json_schema_extra=needs(frames=GIVEN))
    """Which frames make a clip: every `stride`-th from a random start; the same stretch with both
    ends, as AMD on SSV2; a random one of each of `frames` segments of the video, or of slices,
    which leave no frame at its end out, as UMT on Kinetics; or evenly spaced over the video."""
    repeats: Frames = Field(default=1)
    """Copies of every sample in a batch, each with its own crop and mask, decoded once (repeated
    augmentation). Batch sizes do not count them."""
    crop: Literal["resized", "multi_scale"] = Field(default="resized")
    """Random area and aspect ratio, or for clips one of the ten sizes and thirteen places of
    VideoMAE; default for clips: multi_scale."""
    device_crop: bool = Field(default=False, json_schema_extra=needs(frames=GIVEN))
    """Ship whole frames of clips to the device and crop and resize them there."""
    held_out: Rate = Field(default=0.02)
    """Share of the pictures kept aside for the held-out loss (0: none)."""
    workers: Workers | None = Field(default=None)
    """Loader processes per rank (0: none); default: up to 8, by the number of cores."""
    timeout: Positive = Field(default=300.0)
    """Seconds that reading one picture or clip may take before the run stops and names it."""
    max_broken: Share = Field(default=0.05)
    """Share of unreadable pictures above which the run stops and lists them."""

    value_range: ValueRange | None = Field(default=None)
    """Of pictures with more than 8 bits: the numbers that become black and white, such as [0, 4095]
    for 12 bits; default: 0 and 65535, of floats 0 and 1."""
    allow_truncated: bool = Field(default=False)
    """Use JPEGs of which nothing but the end marker is missing; they are broken otherwise."""

    @model_validator(mode="after")
    def _about_pictures(self) -> Self:
        for name in ("value_range", "allow_truncated"):
            if self.frames is not None and getattr(self, name):
                raise ValueError(f"{name} is about pictures; leave it out for clips")
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_clips(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("frames") is None:
            return settings
        return {"crop": "multi_scale", "flip": 0.0, "interpolation": "bilinear"} | settings
