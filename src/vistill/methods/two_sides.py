"""What two sides need in common to be compared token by token or head by head."""

from math import gcd

from vistill.errors import UserError
from vistill.methods.side import Side
from vistill.models.backbone import Tap
from vistill.nearest import near_divisors


def same_grid(ours: Side, our_tap: Tap, theirs: Side, their_tap: Tap) -> None:
    """Raise a UserError unless both taps give the same rows and columns of patches."""
    a, b = ours.model.shape(our_tap), theirs.model.shape(their_tap)
    if (a.patches, a.grid) != (b.patches, b.grid):
        raise UserError(
            f"the student has {a.prefix + a.patches} tokens and the teacher "
            f"{b.prefix + b.patches}, in grids of {a.grid[0]}x{a.grid[1]} and "
            f"{b.grid[0]}x{b.grid[1]} (rows x columns): choose student.patch_size, data.image_size "
            "and teacher.image_size so that both grids are equal"
        )


def same_tokens(ours: Side, our_tap: Tap, theirs: Side, their_tap: Tap) -> None:
    """Raise a UserError unless both taps give the same prefix tokens and grid of patches."""
    same_grid(ours, our_tap, theirs, their_tap)
    a, b = ours.model.shape(our_tap), theirs.model.shape(their_tap)
    if a.prefix != b.prefix:
        raise UserError(
            f"the student leads with {a.prefix} class or register tokens and the teacher with "
            f"{b.prefix}, but tokens are compared one by one; take a teacher with {a.prefix}"
            + ("" if b.prefix else ", or set student.class_token=false")
        )


def heads_fit(num_heads: int, **widths: int) -> None:
    """Raise a UserError unless `num_heads` divides the width of every side; name what would."""
    for side, width in widths.items():
        if width % num_heads:
            common = gcd(*widths.values())
            raise UserError(
                f"the {side}'s width {width} cannot be split into {num_heads} relation heads; "
                f"method.relation.heads={near_divisors(common, num_heads)} would do for both sides"
            )
