"""What every part of the configuration is made of: the section and the bounds of its numbers."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat

T = TypeVar("T")


def unique(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values as they are; a ValueError where one stands twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"holds {value!r} twice")
    return values


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"must go from small to large, not {bounds[0]:g} to {bounds[1]:g}")
    return bounds


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Part = Annotated[float, Field(gt=0.0, le=1.0)]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
PartRange = Annotated[tuple[Part, Part], AfterValidator(_ascending)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
