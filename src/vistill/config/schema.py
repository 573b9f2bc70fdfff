"""The typed configuration of a pre-training run. Plain data: imports neither torch nor methods."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from vistill.config.data import DataConfig
from vistill.config.methods import MethodConfig, TinyMIMConfig, student_defaults
from vistill.config.optim import OptimConfig
from vistill.config.section import (
    Blocks,
    Count,
    Frames,
    Names,
    Pixels,
    Positive,
    Rate,
    Section,
    Seed,
    Size,
    Width,
    unique,
)
from vistill.config.uses import GIVEN, Such, needs

VIT = Such("plain ViT", lambda name: name.startswith("vit") and ":" not in name)
SWIN = Such("Swin of vistill's own", lambda name: name.startswith("swin") and ":" not in name)
NOT_OURS = Such(
    "model of a library or module of your own",
    lambda name: "/" in name or ":" in name,
)
VIT_OR_SWIN = Such(
    "ViT or Swin of vistill's own",
    lambda name: name.startswith(("vit", "swin")) and ":" not in name,
)


class TeacherConfig(Section):
    """Which frozen model teaches, and how it is read."""

    word: ClassVar[str] = "model"

    model: str | None = Field(default=None)
    """`timm/NAME[:pretrained]`, the same with `torchvision/`, `hf/` and `open_clip/`, `hf/FOLDER`,
    `run:PATH` or `file:PATH`; none for methods without a teacher."""
    weights: Literal["random"] | None = Field(default=None, json_schema_extra=needs(model=GIVEN))
    """`random` must be said aloud; otherwise the teacher's weights have to come from somewhere."""
    block: Blocks | Literal["last"] | None = Field(
        default=None, json_schema_extra=needs(model=GIVEN)
    )
    """Block whose signal is the target, counted from 1, or `last`; default: 18 of 24, else the
    last."""
    image_size: Size | None = Field(default=None, json_schema_extra=needs(model=GIVEN))
    """Side of the teacher's input, or `[height, width]`, to which the student's picture is resized;
    default: the same picture."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        default="auto", json_schema_extra=needs(model=GIVEN)
    )
    """Type that the teacher computes in and keeps its weights in; `auto`: that of training. `int8`
    is for CPUs: its wide `Linear` layers, where your pictures show that the loss hardly moves."""
    drop_path: Rate = Field(default=0.0, json_schema_extra=needs(model=GIVEN))
    """Above zero runs the teacher in training mode (an ablation of the TinyMIM paper)."""


class StudentConfig(Section):
    """The model to be trained."""

    word: ClassVar[str] = "model"

    model: str = Field(default="vit_small")
    """`vit_tiny`, `vit_small`, `vit_base`, `vit_large`, `vit_huge`, or `vit` with the sizes below;
    `swinv2_tiny`, `swinv2_small`, `swinv2_base`; or `timm/NAME`, `torchvision/NAME`,
    `hf/NAME`, `open_clip/NAME`."""
    patch_size: Pixels = Field(default=16, json_schema_extra=needs(model=VIT))
    """Side of a square patch in pixels."""
    embed_dim: Width | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Token width; default: the model's own."""
    depth: Blocks | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Number of blocks; default: the model's own."""
    num_heads: Width | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Attention heads of every block; default: the model's own."""
    mlp_ratio: Positive = Field(default=4.0, json_schema_extra=needs(model=VIT))
    """Hidden width of the MLP over the token width."""
    tubelet_size: Frames = Field(
        default=2, json_schema_extra=needs({"data.frames": GIVEN}, model=VIT)
    )
    """Frames per token of a student of clips; with `umt` 1 by default."""
    class_token: bool | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Whether a class token leads the sequence; default: for pictures, not for clips."""
    position: Literal["sincos", "learned", "none"] = Field(
        default="sincos", json_schema_extra=needs(model=VIT)
    )
    """Absolute positions: a fixed sine-cosine table (2-D for pictures, 1-D over all tokens of a
    clip), a trainable one, or none."""
    relative_position: Literal["shared", "layer"] | None = Field(
        default=None, json_schema_extra=needs(model=VIT_OR_SWIN)
    )
    """Learned bias of the attention by relative position, one for all blocks (of a Swin: of each
    stage) or one per block."""
    layer_scale: Positive | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Initial value of a learned scale of every residual branch; default: no scales."""
    qkv_bias: Literal["all", "no_key", "none"] | None = Field(
        default=None, json_schema_extra=needs(model=VIT)
    )
    """Biases of queries, keys and values; default: all, of clips none for the keys. Those of a
    decoder or generator follow, as they do `layer_scale` and `qk_scale`."""
    qk_scale: Positive | None = Field(default=None, json_schema_extra=needs(model=VIT))
    """Factor of the products of queries and keys in front of the softmax; default: one over the
    root of a head's channels."""
    ape: bool = Field(default=False, json_schema_extra=needs(model=SWIN))
    """Learned absolute positions of a Swin, beside its relative ones."""
    extra_norm_period: Count | None = Field(default=None, json_schema_extra=needs(model=SWIN))
    """A further norm behind every so many blocks of each stage, as in the giant SwinV2; default:
    nowhere."""
    initialization: Literal["xavier", "truncated"] = Field(
        default="xavier", json_schema_extra=needs(model=VIT)
    )
    """Fresh weights as in MAE, or truncated normal ones as in feature distillation."""
    maps: Names = Field(default=(), json_schema_extra=needs(model=NOT_OURS))
    """Feature maps of a CNN, of a detector or of a module of your own, by the dotted names of the
    parts that give them, or by their keys among what the backbone returns. The last to be made is
    its last map; several are matched at once by `feature_distillation`. Default: the last map that
    it makes."""
    drop_path: Rate | None = Field(default=None)
    """Stochastic depth: TinyMIM's constant rate on all blocks but the last, or, in feature
    distillation, VideoMAE, AMD and supervised pre-training, the rate of the last block, rising
    linearly from 0; default: the method's own."""
    init: str | None = Field(default=None)
    """Start from these weights (`run:PATH`, `file:PATH`); default: fresh."""


class PupilConfig(StudentConfig):
    """One of several students that learn together."""

    lr: Positive | None = Field(default=None)
    """Its own peak learning rate; default: that of all."""


class TrainConfig(Section):
    """Length, batch, precision and hardware of a run."""

    epochs: Count = Field(default=300)
    """Passes over the training pictures; a finished run goes on when there are more of them."""
    global_batch_size: Count = Field(default=4096)
    """Pictures per optimiser step, over all ranks and accumulation. A default or a recipe's gives
    way to one that fits the folder, or a CPU."""
    micro_batch_size: Count | None = Field(default=None)
    """Pictures per forward pass and rank; default: the global batch over the ranks (no
    accumulation)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto")
    """Autocast type; `auto`: `bf16` where the device is fast at it, with TF32 for the rest, else
    `fp32`. `fp16` scales the loss and is for CUDA devices. A recipe's gives way to one that the
    device has."""
    compile: bool = Field(default=False)
    """Compile the trained module and the teacher with `torch.compile`."""
    activation_checkpointing: bool = Field(default=False)
    """Recompute the student's blocks in the backward pass to save memory."""
    strategy: Literal["ddp", "fsdp2"] = Field(default="ddp")
    """How several ranks (`torchrun`) share the work."""
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto")
    """Where to train; `auto` takes CUDA where there is one."""
    checkpoint_minutes: Positive = Field(default=10.0)
    """Write a checkpoint at least this often, besides one after every evaluation."""
    checkpoint_steps: Count | None = Field(default=None)
    """Also write a checkpoint every so many steps."""
    evaluate_every: Count = Field(default=1)
    """Epochs between held-out loss and kNN probe."""
    stop_when: Literal["end", "flat"] = Field(
        default="end", json_schema_extra=needs({"data.held_out": GIVEN})
    )
    """`flat`: end before `epochs` where the evaluations so far, extrapolated, say with 97.5 % that
    what is left, or as much again as is done, gains less than one evaluation scatters by."""
    knn_probe: bool = Field(default=True, json_schema_extra=needs({"data.held_out": GIVEN}))
    """Probe the student by nearest neighbours where the pictures have labels."""
    loggers: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow"], ...], AfterValidator(unique)
    ] = Field(default=("tensorboard",))
    """Besides `metrics.jsonl`, which is always written."""
    report: bool = Field(default=True)
    """Write `report.html` where the run ends or stops; `vistill report RUN` does it later."""


class CacheConfig(Section):
    """The teacher's outputs for a fixed set of views, written once and read afterwards."""

    word: ClassVar[str] = "path"

    path: str | None = Field(default=None)
    """Folder of the cache (`cache=DIR` for short); none: the teacher runs at every step."""
    views: Count = Field(default=4, json_schema_extra=needs(path=GIVEN))
    """Random views per picture or clip; epoch e shows view e modulo so many. Of `data.repeats`
    copies each has as many of its own."""
    precision: Literal["fp32", "bf16", "int8", "int4"] | None = Field(
        default=None, json_schema_extra=needs(path=GIVEN)
    )
    """Of the stored values; `int8` and `int4` scale the channels of every map; default: `fp32` for
    one vector per picture, `bf16` for maps."""


class RunConfig(Section):
    """Everything that defines a pre-training run."""

    method: MethodConfig = Field(default_factory=TinyMIMConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    seed: Seed = Field(default=0)
    """Everything random in the run derives from this number."""
    chain: tuple[str, ...] | None = Field(default=None)
    """Students of a sequential distillation, largest first: each teaches the next."""
    students: dict[Annotated[str, Field(pattern=r"^\w[\w-]*$")], PupilConfig] | None = Field(
        default=None
    )
    """Students that learn together from one pass of the teacher, by name: settings of `student`,
    which count over those given there, and an `lr` of their own."""

    @model_validator(mode="before")
    @classmethod
    def _students_as_the_method_has_them(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("method"), dict):
            return values
        usual = student_defaults(str(values["method"].get("name")))
        data = values.get("data")
        data = data if isinstance(data, dict) else {}
        if data.get("frames") is None and not data.get("sources"):
            return values  # of pictures alone
        student = values.get("student", {})
        return values | {"student": usual | student} if isinstance(student, dict) else values

    @model_validator(mode="after")
    def _clips_have_frames(self) -> Self:
        data = self.data
        for name in ("stride", "sampling", "crop", "device_crop") if data.frames is None else ():
            value, usual = getattr(data, name), DataConfig.model_fields[name].default
            if value != usual:
                text = str(value).lower() if isinstance(value, bool) else value
                raise ValueError(
                    f"data.{name}={text} is for clips: say how many frames they have, such as "
                    "data.frames=16"
                )
        for source, own in (data.sources or {}).items():
            for name in ("stride", "sampling", "crop") if own.frames is None else ():
                value, usual = getattr(own, name), DataConfig.model_fields[name].default
                if value != usual:
                    raise ValueError(
                        f"data.sources.{source}.{name}={value} is for clips: say how many frames "
                        f"they have, such as data.sources.{source}.frames=16"
                    )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        self.optim.fitting(self.train.epochs)
        return self

    def idle(self, whole: Any) -> Mapping[str, str]:
        learners = [pupil.model for pupil in (self.students or {}).values()] or self.chain
        if not learners:
            return {}
        found = {}
        if self.students:
            found["student.init"] = "with several students; write students.NAME.init"
        if not any(map(VIT.test, learners)):
            why = f"with students none of which is a {VIT.text}: {', '.join(learners)}"
            sizes = set(StudentConfig.model_fields) - {"model", "drop_path"}
            found |= {f"student.{name}": why for name in sizes}
        return found
