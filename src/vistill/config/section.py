"""What every part of the configuration is made of: the section and the bounds of its numbers."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from vistill.config.suggest import did_you_mean, shown

T = TypeVar("T")
_LONGEST = 16384
Replaces = Mapping[str, Mapping[str, Any]]


def unique(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values as they are; a ValueError where one stands twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"holds {value!r} twice")
    return values


def rising(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values as they are; a ValueError unless each, or its first part, is above the last."""
    firsts: list[Any] = [value[0] if isinstance(value, tuple) else value for value in values]
    for before, after in pairwise(firsts):
        if after <= before:
            raise ValueError(f"must rise, but {after:g} follows {before:g}")
    return values


def over_recipe(
    values: Any, recipes: Mapping[str, Mapping[str, Any]], kind: str, replaces: Replaces
) -> Any:
    """A section's raw `values` over those of the recipe that they name, by default `small`.

    Args:
        values: as given; anything but a dict is returned for the type check to refuse.
        recipes: what each of them sets.
        kind: of recipe, for the error.
        replaces: what a setting among `values` makes of others.

    Raises:
        ValueError: there is no such recipe.
    """
    if not isinstance(values, dict):
        return values
    name = values.get("recipe", "small")
    if not isinstance(name, str) or name not in recipes:
        raise ValueError(f"unknown {kind} recipe {name!r}{did_you_mean(str(name), recipes)}")
    replaced = {k: v for key in values for k, v in replaces.get(key, {}).items()}
    return {**recipes[name], **replaced, **values}


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"must go from small to large, not {bounds[0]:g} to {bounds[1]:g}")
    return bounds


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"must rise from black to white, not {bounds[0]:g} to {bounds[1]:g}")
    return bounds


def _names(value: Any) -> Any:
    """Names, of which a lone one needs no list; numbers are names, too."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(str(one) if type(one) is int else one for one in several)


def _size(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A side in pixels, or (height, width); of equal sides one."""
    try:
        size = handler(value)
    except ValidationError:
        sides = re.split(r"[x×,\s]+", value) if isinstance(value, str) else []
        meant = len(sides) == 2 and all(side.isdecimal() for side in sides)
        hint = f"; did you mean [{','.join(sides)}]?" if meant else ""
        raise ValueError(
            f"must be a side of 1 to {_LONGEST} pixels, or [HEIGHT,WIDTH], not "
            f"{shown(value) if isinstance(value, list | tuple) else repr(value)}{hint}"
        ) from None
    return size if isinstance(size, int) or size[0] != size[1] else size[0]


# Bounds that nobody means to cross: beyond them memory, time or the arithmetic of steps would end.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Workers = Annotated[int, Field(ge=0, le=512)]
Pixels = Annotated[int, Field(gt=0, le=_LONGEST)]
Frames = Annotated[int, Field(gt=0, le=4096)]
Blocks = Annotated[int, Field(gt=0, le=1000)]
Width = Annotated[int, Field(gt=0, le=65536)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Steps = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[float, Field(gt=0.0, le=1e9)]
Number = Annotated[float, Field(ge=0.0, le=1e9)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Part = Annotated[float, Field(gt=0.0, le=1.0)]
Aspect = Annotated[float, Field(ge=0.01, le=100.0)]
Range = Annotated[tuple[Aspect, Aspect], AfterValidator(_ascending)]
ValueRange = Annotated[tuple[float, float], AfterValidator(_rising)]
PartRange = Annotated[tuple[Part, Part], AfterValidator(_ascending)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Size = Annotated[Pixels | tuple[Pixels, Pixels], WrapValidator(_size)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    word: ClassVar[str | None] = None
    """The setting that a single word for the whole section means: `student=vit_tiny`."""
    replaces: ClassVar[Replaces] = {}
    """What giving a setting makes of others that an earlier source, or a recipe, has set."""

    def idle(self, whole: Any) -> Mapping[str, str]:
        """Settings, with dots from the top, that change nothing in `whole` for a reason of this
        section's that `vistill.config.uses.needs` cannot say, and the reason."""
        return {}


class MethodSection(Section):
    """What its section tells of a method.

    Attributes:
        needs_teacher: whether it has one; None: as its builder likes.
        takes_clips: whether it learns from clips, too.
        takes_mixed_media: whether a step may show pictures and the next one clips.
        reads_inputs: what of `Batch.inputs` it reads, such as `item`.
        student_defaults: settings of the student that are others than usual where none are given.
    """

    needs_teacher: ClassVar[bool | None] = True
    takes_clips: ClassVar[bool] = True
    takes_mixed_media: ClassVar[bool] = False
    reads_inputs: ClassVar[tuple[str, ...]] = ()
    student_defaults: ClassVar[Mapping[str, Any]] = {}
