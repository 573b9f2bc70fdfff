"""Settings of `vistill inspect`."""

from pydantic import Field

from vistill.config.samples import SamplesConfig
from vistill.config.section import Count, Positive, Section, Seed


class LandscapeConfig(Section):
    """Loss and accuracy around the weights of a classifier, under noise (arXiv 1712.09913)."""

    directions: Count = Field(default=3)
    """Directions of noise, whose curves are averaged."""
    points: Count = Field(default=21)
    """Lengths along each, or in the plane along both."""
    reach: Positive = Field(default=1.0)
    """The longest noise, in lengths of the weights, filter by filter."""
    pictures: Count = Field(default=256)
    """Labelled pictures or clips that the loss is a mean over; they are kept in memory."""
    plane: bool = Field(default=False)
    """Also the plane of the first two directions."""


class InspectConfig(SamplesConfig):
    """Settings of `vistill inspect`."""

    pictures: Count = Field(default=1000)
    """So many pictures or clips are looked at, drawn from all."""
    seed: Seed = Field(default=0)
    """Draws them, and the noise of the landscape."""
    landscape: LandscapeConfig = Field(default_factory=LandscapeConfig)
