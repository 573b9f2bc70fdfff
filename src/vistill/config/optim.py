"""The optimiser of a run, and the learning rate and weight decay that it gets at every step."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vistill.config.section import Count, Number, Positive, Rate, Replaces, Section, rising
from vistill.config.uses import GIVEN, needs

Schedule = Literal["cosine", "step", "multistep", "cyclic", "1cycle", "3cycle", "piecewise", "poly"]
WARMED_UP: tuple[Schedule, ...] = ("cosine", "step", "multistep", "poly")
"""Schedules with a linear warm-up; the others say the rate from the first epoch on."""
_SHORTEST = {"1cycle": 5, "3cycle": 6}
"""Epochs in which all corners of a cycle have room."""


class OptimConfig(Section):
    """Optimiser and learning rate, which is set at every step."""

    replaces: ClassVar[Replaces] = {"base_lr": {"lr": None}}

    optimizer: Literal["adamw", "sgd"] = Field(default="adamw")
    """SGD is without Nesterov's rule and without dampening."""
    schedule: Schedule = Field(default="cosine")
    """After a warm-up: a cosine; `lr * gamma^floor(epoch / step_epochs)`; `gamma` at every
    milestone; or down with the `power` of what is left. Without one, from epoch to epoch along
    lines: `cyclic` up from 0 to the peak at 4/15 of the run and down again; `1cycle` from `lr /
    div_factor` to the peak at 2/5, back at 4/5 and down to `min_lr`; `3cycle`, with s = `lr /
    div_factor`, through s, lr, s/10, 10 s, s/100, s and `min_lr`, a sixth of the run each; or along
    a list (`pieces`)."""
    step_epochs: Count = Field(default=30, json_schema_extra=needs(schedule="step"))
    """Epochs between the drops of the step schedule."""
    milestones: Annotated[tuple[Count, ...], AfterValidator(rising)] = Field(
        default=(), json_schema_extra=needs(schedule="multistep")
    )
    """Epochs after which the multistep schedule drops, such as `[30, 60, 80]`."""
    gamma: Positive = Field(default=0.1, json_schema_extra=needs(schedule=("step", "multistep")))
    """Factor of each drop."""
    div_factor: float = Field(
        default=10.0, ge=1.0, le=1e9, json_schema_extra=needs(schedule=("1cycle", "3cycle"))
    )
    """The peak learning rate over that at the start of `1cycle` and `3cycle`."""
    pieces: Annotated[
        tuple[Annotated[tuple[Number, Number], "epoch, factor"], ...], AfterValidator(rising)
    ] = Field(default=(), json_schema_extra=needs(schedule="piecewise"))
    """Factors of the learning rate at the beginning of these epochs, such as `[[0, 0.1], [5, 1],
    [30, 0]]`."""
    lr_interpolation: Literal["linear", "step"] = Field(
        default="linear", json_schema_extra=needs(schedule="piecewise")
    )
    """Between the epochs of `pieces`: on a line, or the factor of the last one (1 before the
    first)."""
    power: Positive = Field(default=0.9, json_schema_extra=needs(schedule="poly"))
    """Of what is left of the run, in `poly`."""
    momentum: Rate = Field(default=0.9, json_schema_extra=needs(optimizer="sgd"))
    """Of SGD."""

    base_lr: Positive = Field(default=1.5e-4, json_schema_extra=needs(lr=None))
    """Learning rate for a global batch of 256; scaled linearly with the global batch."""
    lr: Positive | None = Field(default=None)
    """Absolute peak learning rate; overrides `base_lr`."""
    min_lr: Number = Field(
        default=0.0, json_schema_extra=needs(schedule=("cosine", "poly", "1cycle", "3cycle"))
    )
    """Learning rate at the end (published for `1cycle` and `3cycle`: 5e-5)."""
    floor_lr: Number = Field(default=0.0)
    """No step has a lower rate, in the warm-up neither (UMT's second stage)."""
    warmup_epochs: Number = Field(default=15.0, json_schema_extra=needs(schedule=WARMED_UP))
    """Epochs of linear warm-up."""
    warmup_lr: Number = Field(
        default=0.0, json_schema_extra=needs(warmup_epochs=GIVEN, schedule=WARMED_UP)
    )
    """Learning rate at the start of the warm-up."""
    peak_in_warmup: bool = Field(
        default=False, json_schema_extra=needs(warmup_epochs=GIVEN, schedule=WARMED_UP)
    )
    """Whether the last step of the warm-up has the peak rate already, as in VideoMAE, AMD and UMT,
    or the first step behind it, as in MAE."""
    warmup_multiplies: bool = Field(
        default=False, json_schema_extra=needs(warmup_epochs=GIVEN, schedule="poly")
    )
    """Whether the warm-up multiplies the falling rate of `poly`, as mmcv does, or precedes it."""
    weight_decay: Number = Field(default=0.05)
    """For matrices and tokens; biases and 1-D parameters never decay."""
    weight_decay_end: Number | None = Field(default=None)
    """Weight decay at the end of the run, reached by a cosine from the first step on (DINO,
    VideoMAE); default: constant."""
    decay_biases: bool = Field(default=False)
    """Decay biases and 1-D parameters as well, in one group with everything else."""
    no_decay: tuple[str, ...] = Field(default=())
    """Parameters whose name contains one of these do not decay either, such as `cls_token`."""
    betas: tuple[Rate, Rate] = Field(
        default=(0.9, 0.95), json_schema_extra=needs(optimizer="adamw")
    )
    """AdamW's running averages."""
    eps: Positive = Field(default=1e-8, json_schema_extra=needs(optimizer="adamw"))
    """AdamW's denominator guard."""
    clip_norm: Positive | None = Field(default=None)
    """Clip the global gradient norm at this value; default: no clipping."""
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    """Multiply the learning rate by this factor per layer below the head; default: none."""

    @model_validator(mode="after")
    def _its_epochs_are_said(self) -> Self:
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("schedule=multistep needs milestones, such as [30, 60, 80]")
        if self.schedule == "piecewise" and not self.pieces:
            raise ValueError("schedule=piecewise needs pieces, such as [[0, 0.1], [5, 1], [30, 0]]")
        return self

    def fitting(self, epochs: int) -> None:
        """Raise a ValueError where a run of so many epochs is too short."""
        if self.schedule in WARMED_UP and self.warmup_epochs > epochs:
            raise ValueError(
                f"optim.warmup_epochs={self.warmup_epochs:g} is longer than the "
                f"train.epochs={epochs} of the run"
            )
        if epochs < (least := _SHORTEST.get(self.schedule, 1)):
            raise ValueError(
                f"optim.schedule={self.schedule} needs at least {least} epochs, and the run has "
                f"train.epochs={epochs}"
            )
        ends = {"milestones": self.milestones[-1:], "pieces": [at for at, _ in self.pieces[-1:]]}
        for name, last in ends.items():
            if last and last[0] > epochs:
                raise ValueError(
                    f"optim.{name} has epoch {last[0]:g}, which is behind the "
                    f"train.epochs={epochs} of the run"
                )
