"""What a run trains on and how it is read. Plain data."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

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

S = TypeVar("S", bound=Section)

_UNSAID_OF_CLIPS = {"crop": "multi_scale", "flip": 0.0, "interpolation": "bilinear"}
_ABOUT_CLIPS = {"stride", "sampling", "crop"}
_ABOUT_PICTURES = {"value_range", "allow_truncated"}


def _about_pictures(section: S) -> S:
    for name in ("value_range", "allow_truncated"):
        if getattr(section, "frames", None) is not None and getattr(section, name):
            raise ValueError(f"{name} is about pictures; leave it out for clips")
    return section


class ReadingConfig(Section):
    """Where samples are and how they are cropped."""

    train: str | None = Field(default=None)
    """A folder, a `.txt`, `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` list, `.tar` shards, or a
    `.zip`;
    several of a kind by a glob."""
    root: str | None = Field(default=None)
    """Folder at which relative paths of a list start; default: the list's own."""
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
    which leave no frame at its end out, as UMT on Kinetics; or of intervals, as UMT with captions;
    or evenly spaced over the video."""
    crop: Literal["resized", "multi_scale"] = Field(default="resized")
    """Random area and aspect ratio, or for clips one of the ten sizes and thirteen places of
    VideoMAE; default for clips: multi_scale."""
    value_range: ValueRange | None = Field(default=None)
    """Of pictures with more than 8 bits: the numbers that become black and white, such as [0, 4095]
    for 12 bits; default: 0 and 65535, of floats 0 and 1."""
    allow_truncated: bool = Field(default=False)
    """Use JPEGs of which nothing but the end marker is missing; they are broken otherwise."""

    @model_validator(mode="after")
    def _about_pictures(self) -> Self:
        return _about_pictures(self)

    @model_validator(mode="before")
    @classmethod
    def _others_where_open(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("frames") is None:
            return settings
        return _UNSAID_OF_CLIPS | settings


class SourceConfig(ReadingConfig):
    """One source of a mixture (`data.sources.NAME`); what it leaves open is as in `data`."""

    word: ClassVar[str] = "train"

    weight: Positive = Field(default=1.0)
    """Passes over it in an epoch of the mixture."""


class DataConfig(ReadingConfig):
    """Pictures or clips to train on and how they are cropped."""

    sources: dict[Annotated[str, Field(pattern=r"^\w[\w-]*$")], SourceConfig] | None = Field(
        default=None
    )
    """A mixture of sources, by name: each has its `train`, for clips its `frames`, a `weight` (how
    often an epoch goes through it; default 1) and what else of `data` is about reading. Every step
    shows samples of one of them."""
    image_size: Size = Field(default=224)
    """Side of the square crop in pixels, or `[height, width]`."""
    repeats: Frames = Field(default=1)
    """Copies of every sample in a batch, each with its own crop and mask, decoded once (repeated
    augmentation). Batch sizes do not count them."""
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

    @model_validator(mode="before")
    @classmethod
    def _others_where_open(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        sources = settings.get("sources")
        if not isinstance(sources, dict) or not sources:
            return settings if settings.get("frames") is None else _UNSAID_OF_CLIPS | settings
        named = {name: one for name, one in sources.items() if isinstance(one, dict)}
        frames = [one["frames"] for one in named.values() if one.get("frames") is not None]
        every = settings.keys() & (ReadingConfig.model_fields.keys() - {"train", "root", "frames"})
        complete = {}
        for name, one in named.items():
            others = _ABOUT_CLIPS if one.get("frames") is None else _ABOUT_PICTURES
            complete[name] = {key: settings[key] for key in every - others} | one
        known = {"frames": frames[0]} if frames else {}
        return known | settings | {"sources": sources | complete}

    @model_validator(mode="after")
    def _about_pictures(self) -> Self:
        return self if self.sources else _about_pictures(self)

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        if self.sources is None:
            return self
        if not self.sources:
            raise ValueError("sources names nothing; write data.sources.NAME.train=PATH")
        for name in ("train", "root"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"has {name}={getattr(self, name)} beside sources, which say it themselves; "
                    "leave one of them out"
                )
        if self.device_crop:
            raise ValueError("has no device_crop for a mixture of sources; leave it out")
        for name, source in self.sources.items():
            if source.train is None:
                raise ValueError(f"says nowhere where sources.{name} is: give its train=PATH")
            if source.frames not in (None, self.frames):
                raise ValueError(
                    f"has clips of {source.frames} frames in sources.{name} and of {self.frames} "
                    "elsewhere; all clips of a mixture have the same number"
                )
        if self.frames is not None and all(one.frames is None for one in self.sources.values()):
            raise ValueError(
                f"has frames={self.frames}, and every one of its sources holds pictures; give "
                "those of clips their frames"
            )
        return self

    @property
    def mixed(self) -> str | None:
        """Which sources hold pictures and which clips, where both are there."""
        clips = [name for name, one in (self.sources or {}).items() if one.frames is not None]
        pictures = [name for name in (self.sources or {}) if name not in clips]
        if not clips or not pictures:
            return None
        return f"pictures ({', '.join(pictures)}) and clips ({', '.join(clips)})"

    def of_source(self, name: str) -> "DataConfig":
        """How one of the sources is read, as if it were alone."""
        assert self.sources is not None
        own = {key: getattr(self.sources[name], key) for key in ReadingConfig.model_fields}
        return self.model_copy(update=own | {"sources": None})
