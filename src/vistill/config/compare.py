"""What `vistill compare` is asked for, and whose its settings are."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vistill.config.problems import explain
from vistill.config.section import Count, Positive, Section, Seed, unique
from vistill.errors import UserError

EVALUATE = "evaluate."
Names = Annotated[tuple[str, ...], AfterValidator(unique)]


class CompareConfig(Section):
    """Methods, teachers and students, all with all, under one budget."""

    methods: Names = Field(min_length=1)
    """Methods or recipes."""
    teachers: Names = Field(default=())
    """As `--teacher` of `pretrain`; methods without a teacher have one row for all of them."""
    students: Names = Field(min_length=1)
    """As `--student` of `pretrain`."""
    steps: Count | None = Field(default=None)
    """Budget of a run: optimiser steps, in whole passes over the pictures."""
    pictures: Count | None = Field(default=None)
    """Budget of a run: pictures shown, in whole passes."""
    minutes: Positive | None = Field(default=None)
    """Budget of a run: minutes of a processor, in whole passes."""
    seeds: Annotated[tuple[Seed, ...], AfterValidator(unique)] = Field(
        default=(0, 1, 2), min_length=1
    )
    """One run of every row each."""
    protocol: Literal["knn", "linear", "finetune"] = Field(default="knn")
    """How students are measured."""
    yardsticks: bool = Field(default=False)
    """Add what a sceptic asks for: no pre-training, labels alone at equal steps and at equal cost,
    class scores of the teacher, relations."""
    jobs: Annotated[int, Field(ge=1, le=512)] = Field(default=1)
    """Runs at a time, each in a process of its own."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [self.steps, self.pictures, self.minutes]
        if sum(one is not None for one in given) != 1:
            raise ValueError("needs one budget: give --steps, --pictures or --minutes")
        return self


def compare_config(flags: Mapping[str, Any]) -> CompareConfig:
    """The checked comparison.

    Raises:
        UserError: every problem in one sentence.
    """
    try:
        return CompareConfig.model_validate(flags)
    except ValidationError as error:
        problems = [text for _, text in explain(error, CompareConfig)]
        raise UserError("compare: " + "; ".join(problems)) from None


def sorted_settings(
    settings: Iterable[tuple[str, Any]], methods: Iterable[str]
) -> tuple[dict[str, list[tuple[str, Any]]], list[tuple[str, Any]]]:
    """Settings of the runs by method, and those of evaluations.

    `METHOD.KEY=VALUE` is that method's own, `evaluate.KEY=VALUE` of evaluations, all else of every
    run.
    """
    names = sorted(methods, key=len, reverse=True)
    of_runs: dict[str, list[tuple[str, Any]]] = {name: [] for name in names}
    own: dict[str, list[tuple[str, Any]]] = {name: [] for name in names}
    of_evaluations: list[tuple[str, Any]] = []
    for key, value in settings:
        mine = next((name for name in names if key.startswith(f"{name}.")), None)
        if key.startswith(EVALUATE):
            of_evaluations.append((key.removeprefix(EVALUATE), value))
        elif mine is not None:
            own[mine].append((key.removeprefix(f"{mine}."), value))
        else:
            for name in names:
                of_runs[name].append((key, value))
    return {name: of_runs[name] + own[name] for name in names}, of_evaluations
