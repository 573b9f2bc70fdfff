"""Names and sizes of the plain vision transformers that vistill builds; imports nothing heavy."""

import re
from typing import NamedTuple

LIBRARIES = ("timm/", "torchvision/", "hf/", "open_clip/")
"""How names of models of other libraries begin."""


def is_function(name: str) -> bool:
    """Whether a model's name is `FILE.py:NAME`, a function of the user's that makes it."""
    return re.search(r"\.py:\w+$", name) is not None


class ViTSize(NamedTuple):
    """Width, number of blocks and attention heads of a plain ViT."""

    embed_dim: int
    depth: int
    num_heads: int


VIT_SIZES = {
    "vit_tiny": ViTSize(192, 12, 3),
    "vit_small": ViTSize(384, 12, 6),
    "vit_base": ViTSize(768, 12, 12),
    "vit_large": ViTSize(1024, 24, 16),
    "vit_huge": ViTSize(1280, 32, 16),
}


class SwinSize(NamedTuple):
    """Channels of the first stage, and blocks and heads of every stage."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]


SWIN_SIZES = {
    "swinv2_tiny": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swinv2_small": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swinv2_base": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
