"""Fixed sine-cosine position tables, and how tables are resampled for another size (spec 1)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PositionRule = Literal["bicubic", "bicubic_antialias"]
"""`bicubic`: the published code of MAE, TinyMIM, DeiT, BEiT and feature distillation.
`bicubic_antialias`: timm's `resample_abs_pos_embed`, and open_clip's; smoother where a grid
shrinks, and by another cubic (a = -0.5 instead of -0.75) where it grows, too."""


def sincos_2d(embed_dim: int, grid: tuple[int, int], num_prefix: int) -> Float[Tensor, "1 n d"]:
    """2-D table of MAE: the column fills the first half of the channels, the row the second.

    Args:
        embed_dim: width D, divisible by 4.
        grid: rows and columns.
        num_prefix: all-zero rows in front (class token).

    Returns:
        float64 `[1, num_prefix + rows * columns, D]`; models store float32.
    """
    if embed_dim % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a width divisible by 4, got {embed_dim}")
    quarter = embed_dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )

    def encode(coordinate: Tensor) -> Tensor:
        angle = coordinate.reshape(-1, 1) * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    table = torch.cat([encode(columns), encode(rows)], dim=1)
    return torch.cat([table.new_zeros(num_prefix, embed_dim), table])[None]


def sincos_1d(embed_dim: int, length: int) -> Float[Tensor, "1 n d"]:
    """Interleaved table over the flattened token index of a clip (VideoMAE, AMD, UMT); float64."""
    channel = torch.arange(embed_dim, dtype=torch.float64)
    period = 10000.0 ** (2 * torch.floor(channel / 2) / embed_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / period
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[None]


def resize_position_table(
    table: Float[Tensor, "1 n d"],
    num_prefix: int,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    rule: PositionRule = "bicubic",
) -> Float[Tensor, "1 m d"]:
    """The patch part resampled without corner alignment, as `rule` says; prefix rows stay."""
    if old_grid == new_grid:
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    picture = patches.reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    antialias = rule == "bicubic_antialias"
    resized = F.interpolate(picture, size=new_grid, mode="bicubic", antialias=antialias)
    return torch.cat([prefix, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resize_clip_table(
    table: Float[Tensor, "1 n d"],
    num_prefix: int,
    old: tuple[int, int, int],
    new: tuple[int, int, int],
) -> Float[Tensor, "1 m d"]:
    """A clip's table for other slots, rows and columns: bicubic in every slot, then linear in time,
    both without corner alignment (spec umt 7); prefix rows stay."""
    if old == new:
        return table
    prefix, patches = table[:, :num_prefix], table[0, num_prefix:]
    slots = patches.reshape(*old, -1).permute(0, 3, 1, 2)
    if old[1:] != new[1:]:
        slots = F.interpolate(slots, size=new[1:], mode="bicubic")
    tokens = slots.permute(2, 3, 1, 0).flatten(0, 1)
    if old[0] != new[0]:
        tokens = F.interpolate(tokens, size=new[0], mode="linear")
    return torch.cat([prefix, tokens.permute(2, 0, 1).flatten(0, 1)[None]], dim=1)
