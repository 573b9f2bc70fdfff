"""BEiT's parameter names, which feature distillation's files and timm share, and vistill's own.

The same network either way: layer scales are `gamma_1`, `gamma_2` of a block, and a block's bias
table belongs to its attention. timm's `Beit` knows no student without a class token.
"""

import re

import torch
from torch import Tensor

_OWN = (
    (r"\bgamma_([12])$", r"ls\1.gamma"),
    (
        r"\battn\.relative_position_bias_table$",
        "attn.rel_pos_bias.relative_position_bias_table",
    ),
)
_BEIT = (
    (r"\bls([12])\.gamma$", r"gamma_\1"),
    (
        r"\battn\.rel_pos_bias\.relative_position_bias_table$",
        "attn.relative_position_bias_table",
    ),
)


def is_beit(state: dict[str, Tensor]) -> bool:
    """Whether a state dict carries BEiT's names."""
    return any(re.search(r"\bgamma_1$|\battn\.q_bias$|relative_position_bias", k) for k in state)


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BEiT's names to vistill's; position indices, which follow from the grid, are left out.

    Where keys have a bias of their own, too, the three are one.
    """
    kept = {k: v for k, v in state.items() if not k.endswith("relative_position_index")}
    for name in [k for k in kept if k.endswith("attn.k_bias")]:
        parts = [name.removesuffix("k_bias") + part for part in ("q_bias", "k_bias", "v_bias")]
        if kept.keys() >= set(parts):
            bias = torch.cat([kept.pop(part) for part in parts])
            kept[name.removesuffix("k_bias") + "qkv.bias"] = bias
    return _renamed(kept, _OWN)


def beit_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """vistill's names to BEiT's."""
    return _renamed(state, _BEIT)


def _renamed(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
