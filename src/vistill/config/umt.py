"""The switches of UMT's two stages. Plain data."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vistill.config.section import (
    Blocks,
    Frames,
    MethodSection,
    Number,
    Part,
    Positive,
    Rate,
    Section,
    Width,
)
from vistill.config.uses import GIVEN, needs

DRAWN = ("semantic", "attention", "tube", "random")


class AlignmentSection(Section):
    """How a student's tokens are aligned with an image model that sees whole frames."""

    mask: Literal["semantic", "attention", "tube", "random", "none"] = Field(default="semantic")
    """What the student sees of every frame: tokens drawn by the attention of the teacher's class
    token, those of most attention, the same places in all frames, any of the clip, or all."""
    importance: Literal["class_token", "patches"] | None = Field(
        default=None, json_schema_extra=needs(mask=("semantic", "attention"))
    )
    """Whose attention in the teacher's last block says what matters: its class token's, or that of
    all patches on average. Default: the class token; of a teacher that pools by attention instead,
    as SigLIP does, the patches."""
    mask_ratio: float = Field(default=0.8, gt=0.0, lt=1.0, json_schema_extra=needs(mask=DRAWN))
    """Share of tokens hidden from the student."""
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
    pixels: Literal["student", "own"] = Field(default="student")
    """The teacher sees frames in the student's normalisation, as published, or in its own."""
    slot: Literal["middle", "mean"] = Field(
        default="middle", json_schema_extra=needs({"data.frames": GIVEN})
    )
    """What the teacher sees of a token of several frames: the middle one, or their mean."""
    visible_only: bool = Field(default=False, json_schema_extra=needs(mask="tube"))
    """Show the teacher no more of a frame than the student."""


class UMTConfig(AlignmentSection, MethodSection):
    """UMT, stage 1 (arXiv 2303.16058): a student of clips learns, at the few tokens that it sees,
    what an image model says of whole frames."""

    student_defaults: ClassVar[Mapping[str, Any]] = {"tubelet_size": 1}

    name: Literal["umt"] = "umt"
    weight: Number = Field(default=1.0)
    """In the total."""
    masks: int = Field(default=1, ge=1, le=64, json_schema_extra=needs(mask=DRAWN))
    """Masks drawn for each look of the teacher, which every clip is shown by."""


class StageTwoAlignment(AlignmentSection):
    """The alignment of stage 1, kept on beside text."""

    weight: Number = Field(default=1.0)
    """In the total."""
    picture_mask_ratio: float = Field(default=0.5, gt=0.0, lt=1.0)
    """`mask_ratio` of pictures."""


class TextTowerConfig(Section):
    """What reads the sentences: BERT, whose last layers look at tokens of clips as well."""

    model: str | None = Field(default=None)
    """A BERT of the hub or of a folder, such as `bert-base-uncased`; what a run of the second stage
    learned, `run:DIR`, or its published file, `file:PATH,tokenizer=NAME`; default: a fresh one of
    these sizes."""
    tokenizer: str | None = Field(default=None)
    """A tokenizer of the hub or of a folder, a `tokenizer.json` or a `vocab.txt`; default: that of
    `model`."""
    max_length: Frames = Field(default=32)
    """Tokens of every sentence, special ones counted in; longer ones are cut."""
    depth: Blocks = Field(default=12, json_schema_extra=needs(model=None))
    """Layers of both parts."""
    fusion_layer: Blocks | None = Field(default=None)
    """Layers that read text alone; default: three quarters of them, 19 of 24."""
    embed_dim: Width = Field(default=768, json_schema_extra=needs(model=None))
    """Channels."""
    num_heads: Blocks = Field(default=12, json_schema_extra=needs(model=None))
    """Attention heads of every layer."""
    dropout: Rate = Field(default=0.1, json_schema_extra=needs(model=None))
    """Of everything in a fresh one; a loaded one has its own."""


class PairSection(MethodSection):
    """What pairs of clips (or pictures) and sentences teach."""

    student_defaults: ClassVar[Mapping[str, Any]] = {"tubelet_size": 1}
    reads_inputs: ClassVar[tuple[str, ...]] = ("item", "text", "text_mask", "sentence")
    takes_mixed_media = True

    text: TextTowerConfig = Field(default_factory=TextTowerConfig)
    captions: Literal["one", "joined"] = Field(default="one")
    """A sample shows one of its captions, drawn, or all of them as one text, as paragraphs are."""
    embedding: Width | None = Field(default=None)
    """Dimensions of the space of clips and sentences; default: 512, or those that `text.model` was
    trained for."""
    contrast_weight: Number = Field(default=1.0)
    """Of the contrast of pairs with the rest of the batch (VTC) in the total."""
    matching_weight: Number = Field(default=1.0)
    """Of the question whether a sentence fits a clip (VTM) in the total."""
    temperature: Annotated[float, Field(ge=0.001, le=0.5)] | None = Field(default=None)
    """Of the contrast, at the start; it is learned. Default: 0.07, or that of `text.model`."""
    decay_temperature: bool = Field(default=True)
    """Decay the temperature like a matrix, as published."""
    gather_grad: Literal["full", "local"] = Field(
        default="full", json_schema_extra=needs(contrast_weight=GIVEN)
    )
    """Gradient of the contrast over several ranks: the true one, or the published one, which is too
    small by their number."""
    negatives: Literal["hard", "any"] = Field(
        default="hard", json_schema_extra=needs(matching_weight=GIVEN)
    )
    """What matching is asked beside the right pair: likely mistakes, or any others."""
    negatives_of: Literal["batch", "rank"] = Field(
        default="batch", json_schema_extra=needs(matching_weight=GIVEN)
    )
    """Where they are drawn from: the whole batch, or each rank's part of it, as published."""
    equal_words: Literal["apart", "wrong", "right"] = Field(default="apart")
    """Rows of different items with the same words: left out of each other's contrast and matching,
    wrong for each other, as published, or right, as where captions are names of classes."""


class UMTMultimodalConfig(PairSection):
    """UMT, stage 2 (arXiv 2303.16058, section 3.2): clips or pictures and their captions in one
    space, while the alignment with the image model goes on."""

    name: Literal["umt_multimodal"] = "umt_multimodal"
    alignment: StageTwoAlignment = Field(default_factory=StageTwoAlignment)
    words_weight: Number = Field(default=1.0)
    """Of the hidden words (MLM) in the total."""
    hidden_words: Part = Field(default=0.5, json_schema_extra=needs(words_weight=GIVEN))
    """Share of a sentence's tokens that are asked for."""


class UMTRetrievalConfig(PairSection):
    """UMT's fine-tuning for retrieval: contrast and matching of whole clips and their captions,
    without a teacher."""

    needs_teacher = False

    name: Literal["umt_retrieval"] = "umt_retrieval"
    pool: Literal["frames", "clip"] = Field(default="frames")
    """A clip is near a sentence as its frames are on average, or as all its tokens together are."""


class QuestionTowerConfig(TextTowerConfig):
    """What reads the questions, with all layers beside the clip; the last ones also start what
    writes the answers."""

    max_length: Frames = Field(default=25)
    """Tokens of every question, special ones counted in; longer ones are cut."""


class UMTQuestionsConfig(MethodSection):
    """UMT's fine-tuning for questions about clips, whose answers are written word by word, without
    a teacher."""

    student_defaults: ClassVar[Mapping[str, Any]] = {"tubelet_size": 1}
    reads_inputs: ClassVar[tuple[str, ...]] = ("text", "text_mask", "answer")
    needs_teacher = False

    name: Literal["umt_questions"] = "umt_questions"
    text: QuestionTowerConfig = Field(default_factory=QuestionTowerConfig)
    answer_length: Frames = Field(default=5)
    """Tokens of every answer, special ones counted in; longer ones are cut."""
