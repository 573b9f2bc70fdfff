"""How many patches, in rows and columns, the tensors of a ViT tell of (spec fd 3.1), and their
number beside the size of the picture."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vistill.errors import UserError
from vistill.models.positions import sincos_2d
from vistill.models.relative_bias import relative_position_index

Grid = tuple[int, int]
TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"


def patch_grid(
    state: dict[str, Tensor], source: str, told: Grid | None = None
) -> tuple[Grid, bool]:
    """Rows and columns of patches, and whether their table of positions is MAE's fixed one.

    Every tensor that depends on the grid has its say: absolute positions, tables of relative ones
    and their indices. Where they leave several grids the square one is meant.

    Args:
        state: weights under vistill's or BEiT's names.
        source: where they come from, for messages.
        told: the grid that the user named.

    Raises:
        UserError: no tensor tells it and `told` does not either, they contradict each other, or
            several grids are possible, none of them square.
    """
    possible: dict[Grid, None] | None = None
    witness = ""
    for name, grids in _witnesses(state):
        if not grids:
            raise UserError(f"{source}: {name} fits no grid of patches")
        kept = grids if possible is None else {grid: None for grid in possible if grid in grids}
        if not kept:
            raise UserError(f"{source}: {name} and {witness} tell of different grids of patches")
        possible, witness = kept, name
    if possible is None:
        if told is None:
            raise UserError(
                f"no tensor of {source} tells the size of its pictures: write "
                f"file:{source},image_size=HEIGHTxWIDTH"
            )
        return told, False
    if told is not None and told not in possible:
        shown = " or ".join(f"{rows} x {columns}" for rows, columns in list(possible)[:3])
        raise UserError(
            f"{source}: {witness} is of {shown} patches, not of the {told[0]} x {told[1]} of "
            "image_size"
        )
    candidates = dict.fromkeys([told]) if told is not None else possible
    if (table := state.get("pos_embed")) is not None:
        fixed = next((grid for grid in candidates if _is_fixed(table, grid, state)), None)
        if fixed is not None:
            return fixed, True
    chosen = next((grid for grid in candidates if grid[0] == grid[1] or len(candidates) == 1), None)
    if chosen is None:
        raise UserError(
            f"{source}: {witness} {list(state[witness].shape)} fits no square grid of patches; "
            f"write file:{source},image_size=HEIGHTxWIDTH"
        )
    return chosen, False


def token_grid(count: int, image_size: tuple[int, int]) -> Grid | None:
    """Rows and columns of `count` patches that are as square as the picture's pixels allow.

    Args:
        count: patch tokens.
        image_size: height and width of the picture in pixels.

    Returns:
        None where no patches as high as wide give so many, but for a part of one left over.
    """
    height, width = image_size
    found: dict[Grid, float] = {}
    for rows in (n for n in range(1, count + 1) if count % n == 0):
        columns = count // rows
        if height == width and rows != columns:
            continue
        # A patch as high as it is wide, with a part of one left over on either side.
        tallest, widest = (s / max(n - 1, 0.5) for s, n in ((height, rows), (width, columns)))
        if max(height / (rows + 1), width / (columns + 1)) < min(tallest, widest):
            found[rows, columns] = abs(math.log(height * columns / (width * rows)))
    return min(found, key=found.__getitem__, default=None)


def _witnesses(state: dict[str, Tensor]) -> Iterator[tuple[str, dict[Grid, None]]]:
    """What each tensor that depends on the grid leaves possible."""
    leading = int("cls_token" in state)
    for name, value in state.items():
        if name == "pos_embed":
            count = value.shape[1] - leading - int("dist_token" in state)
            yield name, _pairs(count)
        elif name.endswith(TABLE):
            offsets = value.shape[0] - 3 * leading
            halves = _pairs(offsets, lambda rows, columns: rows % 2 == columns % 2 == 1)
            yield name, {((r + 1) // 2, (c + 1) // 2): None for r, c in halves}
        elif name.endswith(INDEX):
            pairs = _pairs(value.shape[0] - leading)
            if not value.is_meta:
                pairs = {grid: None for grid in pairs if _counts(value, grid, bool(leading))}
            yield name, pairs


def _pairs(product: int, allowed: Callable[[int, int], bool] = lambda *_: True) -> dict[Grid, None]:
    """All pairs of sides, the most square first."""
    sides = [side for side in range(1, max(product, 0) + 1) if product % side == 0]
    pairs = [(side, product // side) for side in sides if allowed(side, product // side)]
    return dict.fromkeys(sorted(pairs, key=lambda pair: abs(pair[0] - pair[1])))


def _counts(index: Tensor, grid: Grid, class_token: bool) -> bool:
    return torch.equal(index.long(), relative_position_index(grid, class_token))


def _is_fixed(table: Tensor, grid: Grid, state: dict[str, Tensor]) -> bool:
    if table.shape[2] % 4 or "dist_token" in state:
        return False
    fixed = sincos_2d(table.shape[2], grid, int("cls_token" in state))
    return torch.allclose(table.double(), fixed, atol=1e-4)
