"""Settings of `vistill rank-teachers`."""

from pydantic import Field

from vistill.config.samples import EmbedConfig
from vistill.config.section import Count, Seed, Width


class RankConfig(EmbedConfig):
    """Settings of `vistill rank-teachers`."""

    pictures: Count = Field(default=2000)
    """So many pictures or clips are looked at, drawn from all."""
    seed: Seed = Field(default=0)
    """Draws them."""
    student_width: Width | None = Field(default=None)
    """Channels of the student that is to learn: the std ratio is told of so many directions; of
    `--student` by itself, default: 192."""
    k: Count = Field(default=20)
    """Nearest neighbours that vote."""
