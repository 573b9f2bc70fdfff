"""The switches of UMT's first stage. Plain data."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from vistill.config.section import Blocks, MethodSection, Number, Positive
from vistill.config.uses import GIVEN, needs

DRAWN = ("semantic", "attention", "tube", "random")


class UMTConfig(MethodSection):
    """UMT, stage 1 (arXiv 2303.16058): a student of clips learns, at the few tokens that it sees,
    what an image model says of whole frames."""

    student_defaults: ClassVar[Mapping[str, Any]] = {"tubelet_size": 1}

    name: Literal["umt"] = "umt"
    mask: Literal["semantic", "attention", "tube", "random", "none"] = Field(default="semantic")
    """What the student sees of every frame: tokens drawn by the attention of the teacher's class
    token, those of most attention, the same places in all frames, any of the clip, or all."""
    mask_ratio: float = Field(default=0.8, gt=0.0, lt=1.0, json_schema_extra=needs(mask=DRAWN))
    """Share of tokens hidden from the student."""
    masks: int = Field(default=1, ge=1, le=64, json_schema_extra=needs(mask=DRAWN))
    """Masks drawn for each look of the teacher, which every clip is shown by."""
    aligned_layers: Blocks = Field(default=6)
    """Aligned layers, counted from the last on both sides."""
    teacher_interval: Positive = Field(default=1.0)
    """Blocks from one of the teacher's aligned layers to the next; fractions are rounded down."""
    student_interval: Positive = Field(default=1.0)
    """The same of the student."""
    norm: Literal["l2", "none"] = Field(default="l2")
    """Of both sides' tokens: to length 1, or as they are."""
    loss: Literal["l2", "mse", "smooth_l1"] = Field(default="l2")
    """2 - 2⟨s, t⟩, which is the squared distance of tokens of length 1, the mean squared error, or
    smooth L1 (β=1)."""
    weight: Number = Field(default=1.0)
    """In the total."""
    pixels: Literal["student", "own"] = Field(default="student")
    """The teacher sees frames in the student's normalisation, as published, or in its own."""
    slot: Literal["middle", "mean"] = Field(
        default="middle", json_schema_extra=needs({"data.frames": GIVEN})
    )
    """What the teacher sees of a token of several frames: the middle one, or their mean."""
    visible_only: bool = Field(default=False, json_schema_extra=needs(mask="tube"))
    """Show the teacher no more of a frame than the student."""
