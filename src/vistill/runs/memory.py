"""What a machine can hold, asked before anything is allocated."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from vistill.config.schema import RunConfig
from vistill.config.section import Section
from vistill.errors import UserError
from vistill.files import byte_size
from vistill.image_size import height_width
from vistill.models.sizes import VIT_SIZES

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_BYTES = 4


def host_memory() -> int:
    """Bytes of memory of this machine, or of the container that it is."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(path).read_text().strip() for path in _LIMITS if Path(path).is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def require_memory(config: RunConfig) -> None:
    """Raise a UserError if the weights alone of what is to be trained would not fit the machine."""
    total = host_memory()
    for what, parameters in _parameters(config):
        if parameters * _BYTES > total:
            raise UserError(
                f"{what} would have {parameters:.2g} parameters, {byte_size(parameters * _BYTES)} "
                f"of weights, and this machine has {byte_size(total)} of memory"
            )


def _parameters(config: RunConfig) -> Iterator[tuple[str, float]]:
    """Parameters of student and decoders, as far as the configuration tells them."""
    student = config.student
    if student.model in VIT_SIZES or student.model == "vit":
        usual = VIT_SIZES.get(student.model)
        width = student.embed_dim or (usual.embed_dim if usual else 1)
        depth = student.depth or (usual.depth if usual else 1)
        frames = config.data.frames or 1
        tubelet = 1 if config.data.frames is None else student.tubelet_size
        pixels = math.prod(height_width(config.data.image_size))
        tokens = pixels / student.patch_size**2 * frames / tubelet
        cube = 3 * student.patch_size**2 * tubelet
        blocks = depth * (4 + 2 * student.mlp_ratio) * width**2
        yield (
            f"a student of {depth} blocks, {width} wide, on {tokens:.3g} tokens",
            blocks + (tokens + cube) * width,
        )
    for key, section in _sections(config.method, "method"):
        wide, deep = (getattr(section, name, None) for name in ("embed_dim", "depth"))
        if wide and deep:
            yield f"{key} of {deep} blocks, {wide} wide,", deep * 12 * wide**2


def _sections(section: Section, key: str) -> Iterator[tuple[str, Section]]:
    yield key, section
    for name, value in section:
        if isinstance(value, Section):
            yield from _sections(value, f"{key}.{name}")
