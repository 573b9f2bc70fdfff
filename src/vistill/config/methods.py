"""The switches of each method, as its paper's ablations name them. Plain data."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from vistill.config.baselines import LogitKDConfig, RelationKDConfig
from vistill.config.clip_methods import AMDConfig, VideoMAEConfig
from vistill.config.section import (
    Blocks,
    MethodSection,
    Names,
    Number,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    Width,
    unique,
)
from vistill.config.umt import (
    UMTConfig,
    UMTMultimodalConfig,
    UMTQuestionsConfig,
    UMTRetrievalConfig,
)
from vistill.config.uses import GIVEN, needs
from vistill.nearest import near_divisors, near_multiples


class DecoderConfig(Section):
    """The light transformer that paints masked patches (MAE, section 3)."""

    embed_dim: Width = Field(default=512)
    """Token width."""
    depth: Blocks = Field(default=8)
    """Number of blocks."""
    num_heads: Width = Field(default=16)
    """Attention heads of every block."""

    @model_validator(mode="after")
    def _heads_and_positions_fit(self) -> Self:
        if self.embed_dim % self.num_heads:
            near = near_divisors(self.embed_dim, self.num_heads)
            raise ValueError(
                f"cannot split embed_dim={self.embed_dim} into {self.num_heads} heads; "
                f"num_heads={near} would do"
            )
        if self.embed_dim % 4:
            near = near_multiples(self.embed_dim, 4)
            raise ValueError(f"needs an embed_dim divisible by 4, not {self.embed_dim}: {near}")
        return self


class MAEConfig(MethodSection):
    """Masked autoencoder (arXiv 2111.06377): no teacher, reconstruct masked patches."""

    needs_teacher = False
    takes_clips = False

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(default=0.75, gt=0.0, lt=1.0)
    """Share of patches hidden from the encoder."""
    norm_pixels: bool = Field(default=True)
    """Normalise every target patch by its own mean and variance."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)


class RelationConfig(Section):
    """Which token relations are matched (TinyMIM, section 3.2)."""

    pairs: Annotated[tuple[Literal["qk", "qq", "kk", "vv"], ...], AfterValidator(unique)] = Field(
        default=("qk", "vv"), min_length=1
    )
    """Relations X·Yᵀ whose losses are added."""
    softmax: bool = Field(default=True)
    """KL between softmaxed relations; without it smooth L1 (β=2) between scaled products."""
    heads: Width | None = Field(default=None)
    """Heads into which both sides are split; must divide both widths. Default: the heads of the
    teacher's own block."""
    early_blocks: tuple[Blocks, ...] = Field(
        default=(), json_schema_extra=needs({"cache.path": None})
    )
    """Shallower blocks of the teacher that are matched first, each for as many steps as
    `teacher.block`, which comes last: a teacher that runs no further than it is read."""

    @model_validator(mode="after")
    def _early_blocks_rise(self) -> Self:
        for a, b in pairwise(self.early_blocks):
            if b <= a:
                raise ValueError(f"early_blocks must rise, but {b} follows {a}")
        return self


class FeatureConfig(Section):
    """Which feature is matched (TinyMIM, table 1)."""

    kind: Literal["output", "block", "attention", "ffn", "qkv"] = Field(default="block")
    """`output` is the last block's, whatever `teacher.block` says; the others are the teacher
    block's: its output, its attention or MLP branch, or queries, keys and values."""
    residual: bool = Field(default=False)
    """Take attention or FFN features after their residual sum."""

    @model_validator(mode="after")
    def _residual_has_a_use(self) -> Self:
        if self.residual and self.kind not in ("attention", "ffn"):
            raise ValueError(f"has no use for residual=true with kind={self.kind}")
        return self


class ClassTokenConfig(Section):
    """How class tokens are compared."""

    loss: Literal["kl", "mse", "smooth_l1"] = Field(default="kl")
    """KL between softmaxes over channels, mean squared error, or smooth L1."""


class AuxMIMConfig(Section):
    """Reconstruction beside distillation (TinyMIM, section 3.2)."""

    weight: Number = Field(default=0.0)
    """Weight of the MAE loss; above zero the student's input is masked."""
    norm_pixels: bool = Field(default=True, json_schema_extra=needs(weight=GIVEN))
    """Normalise every target patch by its own mean and variance."""
    decoder: DecoderConfig = Field(
        default_factory=DecoderConfig, json_schema_extra=needs(weight=GIVEN)
    )


class TinyMIMConfig(MethodSection):
    """TinyMIM (arXiv 2301.01296): distil a block of a masked-image-modelling teacher."""

    name: Literal["tinymim"] = "tinymim"
    target: Literal["relation", "feature", "class_token"] = Field(default="relation")
    """What of the teacher is matched; the section of that name holds its switches."""
    relation: RelationConfig = Field(
        default_factory=RelationConfig, json_schema_extra=needs(target="relation")
    )
    feature: FeatureConfig = Field(
        default_factory=FeatureConfig, json_schema_extra=needs(target="feature")
    )
    class_token: ClassTokenConfig = Field(
        default_factory=ClassTokenConfig, json_schema_extra=needs(target="class_token")
    )
    input: Literal["raw", "masked"] = Field(default="raw")
    """Whether both sides see the whole picture or the same visible patches."""
    mask_ratio: float = Field(default=0.75, gt=0.0, lt=1.0, json_schema_extra=needs(input="masked"))
    """Share of hidden patches where the input is masked."""
    aux_mim: AuxMIMConfig = Field(
        default_factory=AuxMIMConfig, json_schema_extra=needs(input="masked")
    )
    student_color_jitter: Annotated[tuple[Positive, Positive, Positive], "bcs"] | None = Field(
        default=(0.4, 0.4, 0.4)
    )
    """Brightness, contrast, saturation jitter of the student's picture only; null: off."""

    @model_validator(mode="after")
    def _aux_mim_needs_a_mask(self) -> Self:
        if self.aux_mim.weight > 0 and self.input == "raw":
            raise ValueError(
                "method.aux_mim.weight above 0 reconstructs hidden patches, "
                "so it needs method.input=masked"
            )
        return self

    def idle(self, whole: Any) -> Mapping[str, str]:
        last = self.target == "feature" and self.feature.kind == "output"
        if self.target != "class_token" and not last:
            return {}
        what = "feature.kind=output" if last else "target=class_token"
        return {"teacher.block": f"with method.{what}, which is read behind the last block"}


_FEATURES = ("map", "patches", "class_token", "pooled")


class FeatureDistillationConfig(MethodSection):
    """Feature distillation (arXiv 2205.14141): regress the whitened output of any teacher."""

    name: Literal["feature_distillation"] = "feature_distillation"
    target: Literal["map", "patches", "class_token", "pooled", "logits"] = Field(default="map")
    """All output tokens, the patches, the class token, the patches' mean, or class scores."""
    after_norm: bool = Field(default=True, json_schema_extra=needs(target=_FEATURES))
    """Read the teacher behind its own final norm."""
    whitening: Literal["token", "channel", "l2", "none"] = Field(
        default="token", json_schema_extra=needs(target=_FEATURES)
    )
    """Normalisation of the target: of every token, of every channel over the batch, length one."""
    loss: Literal["smooth_l1", "mse", "l1", "cosine"] = Field(
        default="smooth_l1", json_schema_extra=needs(target=_FEATURES)
    )
    """Distance to the target; class scores are always compared by KL."""
    beta: Positive = Field(default=2.0, json_schema_extra=needs(target=_FEATURES, loss="smooth_l1"))
    """Where smooth L1 turns from square to line."""
    temperature: Positive = Field(default=1.0, json_schema_extra=needs(target="logits"))
    """Of both sides' class scores."""
    projector: Literal["linear", "mlp", "identity"] = Field(default="linear")
    """From the student's width to the teacher's; it is not exported."""
    resize_map: bool = Field(default=False, json_schema_extra=needs(target=("map", "patches")))
    """Resize the teacher's map to the student's grid where they differ."""
    antialias: bool = Field(default=True, json_schema_extra=needs({"teacher.image_size": GIVEN}))
    """Antialiasing where pictures are resized to `teacher.image_size`."""
    teacher_maps: Names = Field(default=())
    """What of the teacher each of `student.maps` is compared with: numbers of blocks, or names of a
    CNN's parts; default: its last map. They are resized to the student's grids."""
    map_weights: tuple[Positive, ...] = Field(default=())
    """Factor of the loss of each of `student.maps`; default: 1."""


class KDEPConfig(MethodSection):
    """KDEP (arXiv 2203.05180): match pooled penultimate features through a fixed SVD."""

    name: Literal["kdep"] = "kdep"
    align: Literal["svd", "channel_var", "channel_random", "interpolate", "conv1x1", "identity"] = (
        Field(default="svd")
    )
    """How the teacher's channels become the student's; `conv1x1` learns a map of the student's."""
    columns: Literal["top", "second", "last", "random"] = Field(
        default="top", json_schema_extra=needs(align="svd")
    )
    """Which singular directions: the first, as many behind them, the last, or some at random."""
    centred: bool = Field(default=True, json_schema_extra=needs(align=("svd", "channel_var")))
    """Subtract the mean feature before the directions are sought and used."""
    transform: Literal["pts", "sn", "sm_rank", "sm_linear", "none"] | None = Field(default=None)
    """Of the aligned target: power temperature scaling, scale normalisation, std matching (both
    kinds) or none; default: `pts`, with `conv1x1` none."""
    temperature: Positive = Field(default=0.1, json_schema_extra=needs(transform=("pts", None)))
    """T of power temperature scaling; the paper also uses 0.03 with n=3, and 0.2 with n=2."""
    n: Positive = Field(default=3.0, json_schema_extra=needs(transform=("pts", None)))
    """Root of power temperature scaling."""
    target_std: Positive = Field(default=1.3975, json_schema_extra=needs(transform="sn"))
    """Channel std after scale normalisation (published: 500 / sqrt(127999))."""
    std_ratio: Positive | None = Field(default=None, json_schema_extra=needs(transform="sm_linear"))
    """Largest over smallest channel std after linear std matching (published: 2.98); default: that
    of the teacher's own channels."""
    interpolation: Literal["nearest", "linear"] = Field(
        default="nearest", json_schema_extra=needs(align="interpolate")
    )
    """How `interpolate` resizes the channels."""
    channel_seed: Seed = Field(default=0)
    """Which channels `channel_random` draws, or `columns=random`."""
    wider: Literal["refuse", "pad", "interpolate"] = Field(
        default="refuse", json_schema_extra=needs(align=("svd", "channel_var", "channel_random"))
    )
    """A student wider than the rank of the teacher's feature: refuse it, fill the target up with
    zeros, or stretch it."""
    activation: Literal["before", "after"] | None = Field(default=None)
    """Whether CNNs are read before or after their last activation; default: before, with `conv1x1`
    after."""
    loss: Literal[
        "mse", "normalized", "exponential", "softmax", "sign_aligned", "angle", "relational"
    ] = Field(default="mse")
    """Distance between feature and target; the published one is the mean squared error."""
    weight: Number = Field(default=3.0)
    """Factor of the loss; published: 3 for the Microsoft-Vision teacher, 20 for ImageNet's; 0
    leaves the feature out."""
    stages: tuple[tuple[str, str], ...] = Field(default=())
    """Pairs of layers, the student's and the teacher's, that are matched as well, such as
    `[[layer3, layer3]]`: their means over space, each pair by a fixed map of its own."""
    stage_weight: Positive = Field(default=3.0, json_schema_extra=needs(stages=GIVEN))
    """Factor of the loss of each pair."""
    logits_weight: Number = Field(default=0.0)
    """Factor of the KL between class scores, for a teacher with its classifier; the student gets
    one that is thrown away."""
    logits_temperature: Positive = Field(default=4.0, json_schema_extra=needs(logits_weight=GIVEN))
    """Of both sides' class scores."""
    logits_entropy: Share | None = Field(default=None, json_schema_extra=needs(logits_weight=GIVEN))
    """Compare the scores of those pictures only where the teacher's entropy is at most this share
    of the largest possible one; default: of all."""
    labels_weight: Number = Field(default=0.0)
    """Factor of the cross-entropy with the labels of the pictures that have one; the classifier is
    that of `logits_weight` where both tell as many classes apart."""
    logits_activation: Literal["before", "after"] = Field(default="after")
    """Whether the classifiers of CNNs see the feature after its last activation, as networks have
    it, or before it, as the published code reads both sides' class scores."""
    fit_view: Literal["train", "eval"] = Field(
        default="train", json_schema_extra=needs(align=("svd", "channel_var"))
    )
    """Pictures of the pass that fits the SVD: as in training, or as in tests."""
    color_jitter: Annotated[tuple[Positive, Positive, Positive], "bcs"] | None = Field(
        default=(0.1, 0.1, 0.1)
    )
    """Brightness, contrast and saturation jitter of the picture that both sides see; null: off."""
    lighting_std: Number = Field(default=0.05)
    """Std of the colour noise along ImageNet's principal directions."""

    @model_validator(mode="after")
    def _std_needs_the_svd(self) -> Self:
        if self.transform in ("sn", "sm_rank", "sm_linear") and self.align != "svd":
            raise ValueError(
                f"method.transform={self.transform} knows the std of singular directions only, "
                "so it needs method.align=svd"
            )
        return self

    def idle(self, whole: Any) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if self.align != "channel_random" and (self.align, self.columns) != ("svd", "random"):
            found["method.channel_seed"] = "without align=channel_random or columns=random"
        if self.transform is None and self.align == "conv1x1":
            without = "with method.align=conv1x1 unless method.transform=pts"
            found |= dict.fromkeys(("method.temperature", "method.n"), without)
        if not self.logits_weight and not self.labels_weight:
            without = "without method.logits_weight or method.labels_weight"
            found["method.logits_activation"] = without
        if not self.weight and not self.stages:
            names = (
                "align",
                "columns",
                "centred",
                "transform",
                "temperature",
                "n",
                "loss",
                "wider",
            )
            found |= {f"method.{name}": "with method.weight=0 and no stages" for name in names}
        return found


class SupervisedConfig(MethodSection):
    """Supervised pre-training: cross-entropy with the labels, without a teacher. It is what KDEP's
    tables compare with."""

    needs_teacher = False

    name: Literal["supervised"] = "supervised"
    label_smoothing: Rate = Field(default=0.0)
    """Share of the target that is spread over all classes."""
    color_jitter: Annotated[tuple[Positive, Positive, Positive], "bcs"] | None = Field(
        default=(0.1, 0.1, 0.1)
    )
    """Brightness, contrast and saturation jitter of pictures and clips; null: off."""
    lighting_std: Number = Field(default=0.05)
    """Std of the colour noise along ImageNet's principal directions."""


class CustomConfig(MethodSection):
    """A method of your own: a function in a file or module (docs/writing_a_method.md)."""

    needs_teacher = None
    takes_mixed_media = True

    name: Literal["custom"] = "custom"
    builder: str | None = Field(default=None)
    """The function, as `FILE.py:NAME` or `PACKAGE.MODULE:NAME`."""
    options: dict[str, Any] = Field(default={})
    """What it finds in its ingredients' options."""


MethodConfig = Annotated[
    MAEConfig
    | VideoMAEConfig
    | AMDConfig
    | UMTConfig
    | UMTMultimodalConfig
    | UMTRetrievalConfig
    | UMTQuestionsConfig
    | TinyMIMConfig
    | FeatureDistillationConfig
    | KDEPConfig
    | LogitKDConfig
    | RelationKDConfig
    | SupervisedConfig
    | CustomConfig,
    Field(discriminator="name"),
]


def student_defaults(name: str) -> dict[str, Any]:
    """Settings of the student that are others than usual with a method."""
    union, _ = get_args(MethodConfig)
    found = (one for one in get_args(union) if one.model_fields["name"].default == name)
    return dict(next((one.student_defaults for one in found), {}))
