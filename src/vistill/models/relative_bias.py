"""Relative position bias of BEiT-style transformers: index, table, resizing (spec fd 3, 5)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# Of every token in front of the patches: it to any, any to it, it to itself.
_ENTRIES = 3


def relative_position_index(grid: tuple[int, int], num_prefix: int) -> Int[Tensor, "n n"]:
    """Table row of every (query, key) pair.

    The offset is query minus key, rows first; with a class token (token 0) the last three rows of
    the table are class-to-any, any-to-class and class-to-class, and those in front of them the same
    of a distillation token (token 1), for what the class token has no part in (spec 9).

    Args:
        grid: rows and columns of patches.
        num_prefix: tokens in front of the patches.
    """
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None] + rows - 1
    dx = x[:, None] - x[None] + columns - 1
    patches = dy * (2 * columns - 1) + dx
    length = table_length(grid, num_prefix)
    index = patches.new_empty(*[len(patches) + num_prefix] * 2)
    index[num_prefix:, num_prefix:] = patches
    for token in reversed(range(num_prefix)):
        first = length - _ENTRIES * (token + 1)
        index[token, :] = first
        index[:, token] = first + 1
        index[token, token] = first + 2
    return index


def table_length(grid: tuple[int, int], num_prefix: int) -> int:
    """Rows of the table for a grid."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + _ENTRIES * num_prefix


class RelativePositionBias(nn.Module):
    """A learned bias per offset and head, gathered to `[heads, N, N]`; starts at zero."""

    relative_position_index: Tensor

    def __init__(self, grid: tuple[int, int], num_heads: int, num_prefix: int) -> None:
        super().__init__()
        self.grid, self.num_prefix = grid, num_prefix
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(table_length(grid, num_prefix), num_heads)
        )
        index = relative_position_index(grid, num_prefix)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self) -> Float[Tensor, "m n n"]:
        table = self.relative_position_bias_table[self.relative_position_index]
        return table.permute(2, 0, 1).contiguous()

    def resized(self, grid: tuple[int, int]) -> "RelativePositionBias":
        """The bias of another grid, by geometric interpolation of the table."""
        table = self.relative_position_bias_table
        other = RelativePositionBias(grid, table.shape[1], self.num_prefix)
        resized = resize_bias_table(table.detach(), self.grid, grid, self.num_prefix)
        other.relative_position_bias_table = nn.Parameter(
            resized, requires_grad=table.requires_grad
        )
        return other.to(table.device)


def resize_bias_table(
    table: Float[Tensor, "r m"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix: int,
) -> Float[Tensor, "s m"]:
    """Geometric cubic interpolation of a bias table (BEiT); the entries of other tokens stay.

    Source offsets are placed at geometrically growing distances, so that near offsets keep their
    values; heads are interpolated separately, in float64.
    """
    if old_grid == new_grid:
        return table
    extra = _ENTRIES * num_prefix
    offsets = table[: len(table) - extra].double()
    image = offsets.reshape(2 * old_grid[0] - 1, 2 * old_grid[1] - 1, -1)
    rows, columns = (
        _axis_weights(2 * old - 1, 2 * new - 1).to(table.device)
        for old, new in zip(old_grid, new_grid, strict=True)
    )
    resized = torch.einsum("ai,bj,ijm->abm", rows, columns, image).flatten(0, 1)
    return torch.cat([resized.to(table.dtype), table[len(table) - extra :]])


def _axis_weights(source: int, target: int) -> Float[Tensor, "t s"]:
    """Matrix that takes values at `source` offsets to values at `target` offsets."""
    if source == target:
        return torch.eye(source, dtype=torch.float64)
    ratio = _growth(source // 2, target // 2)
    steps = ratio ** torch.arange(source // 2, dtype=torch.float64)
    right = steps.cumsum(0)
    known = torch.cat([-right.flip(0), torch.zeros(1, dtype=torch.float64), right])
    half = target // 2
    wanted = torch.arange(-half, half + 1, dtype=torch.float64)
    return spline_weights(known, wanted.clamp(float(known[0]), float(known[-1])))


def _growth(steps: int, reach: int) -> float:
    """Growth of the distances for which `steps` of them reach about `reach`, within [1.01, 1.5]."""
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return ratio


def spline_weights(known: Float[Tensor, " n"], wanted: Float[Tensor, " m"]) -> Float[Tensor, "m n"]:
    """Not-a-knot cubic spline as a matrix: values at `known` positions to values at `wanted` ones.

    Args:
        known: ascending positions; up to four of them are joined by one polynomial.
        wanted: positions within the range of `known`.
    """
    n = len(known)
    if n <= 4:
        powers = torch.arange(n, dtype=known.dtype)
        return wanted[:, None] ** powers @ torch.linalg.inv(known[:, None] ** powers)
    h = known.diff()
    # Second derivatives times `system` equal slopes' differences times the values.
    system, slopes = known.new_zeros(n, n), known.new_zeros(n, n)
    inner = torch.arange(1, n - 1)
    system[inner, inner - 1] = h[:-1]
    system[inner, inner] = 2 * (h[:-1] + h[1:])
    system[inner, inner + 1] = h[1:]
    slopes[inner, inner - 1] = 6 / h[:-1]
    slopes[inner, inner] = -6 / h[:-1] - 6 / h[1:]
    slopes[inner, inner + 1] = 6 / h[1:]
    system[0, :3] = torch.stack([h[1], -(h[0] + h[1]), h[0]])
    system[-1, -3:] = torch.stack([h[-1], -(h[-2] + h[-1]), h[-2]])
    curvature = torch.linalg.solve(system, slopes)

    left = (torch.searchsorted(known, wanted, right=True) - 1).clamp(0, n - 2)
    value = torch.eye(n, dtype=known.dtype)
    width = h[left][:, None]
    after, before = wanted[:, None] - known[left, None], known[left + 1, None] - wanted[:, None]
    return (
        (curvature[left] * before**3 + curvature[left + 1] * after**3) / (6 * width)
        + (value[left] / width - curvature[left] * width / 6) * before
        + (value[left + 1] / width - curvature[left + 1] * width / 6) * after
    )
