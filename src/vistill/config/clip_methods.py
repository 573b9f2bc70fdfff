"""The switches of the methods that learn from clips: VideoMAE and AMD. Plain data."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
)

from vistill.config.section import (
    Blocks,
    MethodSection,
    Number,
    Section,
    Width,
)
from vistill.config.uses import GIVEN, needs


class HiddenDecoderConfig(Section):
    """The light transformer that paints hidden tokens (VideoMAE, section 3)."""

    embed_dim: Width | None = Field(default=None)
    """Token width; default: half the student's for clips, MAE's 512 for pictures."""
    depth: Blocks | None = Field(default=None)
    """Number of blocks; default: 4 for clips, 8 for pictures."""
    num_heads: Width | None = Field(default=None)
    """Attention heads of every block; default: 64 channels a head for clips, 16 for pictures."""


class VideoMAEConfig(MethodSection):
    """VideoMAE (arXiv 2203.12602): no teacher, reconstruct the hidden tokens of clips."""

    needs_teacher = False

    name: Literal["videomae"] = "videomae"
    mask: Literal["tube", "random"] = Field(default="tube")
    """Hide the same places in all frames, or choose among all tokens."""
    mask_ratio: float = Field(default=0.9, gt=0.0, lt=1.0)
    """Share of tokens hidden from the encoder."""
    norm_pixels: bool = Field(default=True)
    """Normalise every channel of every target cube by its own mean and variance."""
    decoder: HiddenDecoderConfig = Field(default_factory=HiddenDecoderConfig)


BlockPairs = Annotated[
    tuple[Annotated[tuple[Blocks, Blocks], "student, teacher"], ...],
    Field(min_length=1),
]
AlignmentLoss = Literal["l2", "l1", "smooth_l1"]


class DirectConfig(Section):
    """The loss on tokens that student and teacher both see (AMD, section 3)."""

    pairs: BlockPairs | None = Field(default=None)
    """`[[student block, teacher block], ...]`, counted from 1; default: half-way and last on both
    sides."""
    loss: AlignmentLoss = Field(default="l2", json_schema_extra=needs(weight=GIVEN))
    """Mean squared error, mean absolute error, or smooth L1 (β=1)."""
    weight: Number = Field(default=1.0)
    """In the total; 0: off."""


class GenerationConfig(Section):
    """The loss on tokens that the teacher alone sees, which a generator completes."""

    pairs: BlockPairs | None = Field(default=None, json_schema_extra=needs(weight=GIVEN))
    """As `direct.pairs`; default: those."""
    loss: AlignmentLoss = Field(default="l2", json_schema_extra=needs(weight=GIVEN))
    """Mean squared error, mean absolute error, or smooth L1 (β=1)."""
    weight: Number = Field(default=1.0)
    """In the total; 0: off, as where the teacher sees no more than the student."""
    input: Literal["serial", "parallel"] = Field(
        default="serial", json_schema_extra=needs(weight=GIVEN)
    )
    """The features projected for the direct loss, pair by pair, or a projection of its own."""
    depth: Blocks = Field(default=2, json_schema_extra=needs(weight=GIVEN))
    """Blocks of a generator, at the teacher's width."""
    num_heads: Width | None = Field(default=None, json_schema_extra=needs(weight=GIVEN))
    """Attention heads of every block; default: 64 channels a head."""
    final_norm: bool = Field(default=False, json_schema_extra=needs(weight=GIVEN))
    """A layer norm behind the last block."""
    mask_token: Literal["learned", "frozen"] = Field(
        default="learned", json_schema_extra=needs(weight=GIVEN)
    )
    """Learned without weight decay, or frozen at its random start as published."""


class ReconstructionConfig(Section):
    """The pixel loss of the masked autoencoder."""

    weight: Number = Field(default=1.0)
    """In the total; 0: pure distillation without a decoder."""
    norm_pixels: bool = Field(default=True, json_schema_extra=needs(weight=GIVEN))
    """Normalise every target by its own mean and variance."""
    decoder: HiddenDecoderConfig = Field(
        default_factory=HiddenDecoderConfig, json_schema_extra=needs(weight=GIVEN)
    )


class AMDConfig(MethodSection):
    """AMD (Asymmetric Masked Distillation, CVPR 2024): a masked autoencoder taught by one that sees
    more of the same clip or picture."""

    name: Literal["amd"] = "amd"
    mask: Literal["tube", "random"] = Field(
        default="tube", json_schema_extra=needs({"data.frames": GIVEN})
    )
    """Of clips: hide the same places in all frames, or choose among all tokens."""
    student_mask_ratio: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of tokens hidden from the student; default: 0.9 for clips, 0.75 for pictures."""
    teacher_mask_ratio: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of tokens hidden from the teacher, none of which the student sees; default: 0.75 for
    clips, 0.5 for pictures."""
    direct: DirectConfig = Field(default_factory=DirectConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    reconstruction: ReconstructionConfig = Field(default_factory=ReconstructionConfig)
    projection: Literal["linear", "mlp"] = Field(default="linear")
    """From the student's width to the teacher's."""
    shared_projection: bool = Field(default=False)
    """One projection for all pairs instead of one for each."""
    layer_reduction: Literal["mean", "sum"] = Field(default="mean")
    """Of the losses of the pairs: mean as in the code, or sum as in the paper."""
    channel_reduction: Literal["mean", "sum"] = Field(default="mean")
    """Of a token's channels: mean as in the code, or sum as in the paper."""
    target_norm: Literal["none", "layer_norm"] = Field(default="none")
    """Of every token of the teacher's features."""

    def idle(self, whole: Any) -> Mapping[str, str]:
        student, teacher = (0.75, 0.5) if whole.data.frames is None else (0.9, 0.75)
        student = student if self.student_mask_ratio is None else self.student_mask_ratio
        teacher = teacher if self.teacher_mask_ratio is None else self.teacher_mask_ratio
        if student != teacher:
            return {}
        return {"method.generation": f"with a teacher that sees no more: both hide {student:g}"}
