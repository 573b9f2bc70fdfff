"""What an AMD run is made of, chosen and checked before any work: what is seen, which blocks are
paired, which losses are on (spec amd 4, 6, 8)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vistill.errors import UserError
from vistill.losses.distances import l1, mse, smooth_l1
from vistill.methods.videomae import check_sight
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.views.masking import Sight, clip_sight, picture_sight

Pairs = Sequence[tuple[int, int]]
_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": mse,
    "l1": l1,
    "smooth_l1": lambda ours, theirs: smooth_l1(ours, theirs, beta=1.0),
}


@dataclass(frozen=True)
class Alignment:
    """One of the two alignment losses.

    Attributes:
        pairs: (student block, teacher block), ascending on both sides.
        distance: mean over samples, tokens and channels.
        weight: in the total.
    """

    pairs: tuple[tuple[int, int], ...]
    distance: Callable[[Tensor, Tensor], Tensor]
    weight: float


def _choose_pairs(
    name: str, given: Pairs | None, student: Backbone, teacher: Backbone
) -> tuple[tuple[int, int], ...]:
    """The pairs in ascending order; None: half-way and last on both sides (spec amd 10.1)."""
    if given is None:
        depths = student.depth, teacher.depth
        half = max(1, depths[0] // 2), max(1, depths[1] // 2)
        return (half, depths) if student.depth > 1 else (depths,)
    pairs = tuple(sorted((int(ours), int(theirs)) for ours, theirs in given))
    setting = f"method.{name}.pairs"
    for ours, theirs in pairs:
        for side, block, model in (("student", ours, student), ("teacher", theirs, teacher)):
            if not 1 <= block <= model.depth:
                raise UserError(
                    f"{setting}: there is no block {block}, as the {side} has {model.depth}"
                )
    for (ours, theirs), (our_next, their_next) in itertools.pairwise(pairs):
        if ours == our_next:
            raise UserError(f"{setting} holds block {ours} of the student twice")
        if theirs > their_next:
            raise UserError(
                f"{setting}: [{ours}, {theirs}] and [{our_next}, {their_next}] cross; later blocks "
                "of the student go with later blocks of the teacher"
            )
    return pairs


def choose_alignment(
    name: str, options: Mapping[str, Any], student: Backbone, teacher: Backbone
) -> Alignment:
    """The loss that `method.NAME` describes: its pairs, distance and weight.

    Raises:
        UserError: a block is not there, comes twice, or the two sides do not ascend together.
    """
    pairs = _choose_pairs(name, options["pairs"], student, teacher)
    return Alignment(pairs, _DISTANCES[options["loss"]], options["weight"])


def choose_sight(
    student: VisionTransformer, student_ratio: float, teacher_ratio: float, *, tube: bool
) -> Sight:
    """What both sides see of the student's input.

    Raises:
        UserError: the teacher would see less than the student, or the student nothing.
    """
    if student_ratio < teacher_ratio:
        raise UserError(
            f"method.student_mask_ratio={student_ratio} is below "
            f"method.teacher_mask_ratio={teacher_ratio}, but the teacher has to see whatever the "
            "student sees"
        )
    positions = student.grid[0] * student.grid[1]
    if student.tubelet_size is None:
        sight = picture_sight(positions, student_ratio, teacher_ratio)
    else:
        sight = clip_sight(student.slots, positions, student_ratio, teacher_ratio, tube=tube)
    check_sight(sight, "method.student_mask_ratio", student_ratio)
    if sight.seen == sight.visible and student_ratio > teacher_ratio:
        raise UserError(
            f"of {sight.positions} positions both mask ratios, {student_ratio} and "
            f"{teacher_ratio}, leave {sight.visible}: lower method.teacher_mask_ratio, or give "
            "both the same for a teacher that sees no more than the student"
        )
    return sight


def check_grids(student: VisionTransformer, teacher: VisionTransformer) -> None:
    """Raise a UserError if the two do not cut their inputs into the same tokens."""
    if (student.tubelet_size is None) != (teacher.tubelet_size is None):
        sides = ("clips", "pictures") if student.tubelet_size else ("pictures", "clips")
        raise UserError(f"the student sees {sides[0]}, but the teacher was made for {sides[1]}")
    if student.tubelet_size != teacher.tubelet_size:
        raise UserError(
            f"student.tubelet_size={student.tubelet_size}, but the teacher's tokens span "
            f"{teacher.tubelet_size} frames; tokens are compared one by one, so set it to that"
        )
    if (student.slots, *student.grid) != (teacher.slots, *teacher.grid):
        grids = [" x ".join(map(str, (m.slots, *m.grid))) for m in (student, teacher)]
        raise UserError(
            f"the student has {grids[0]} tokens and the teacher {grids[1]} (time x rows x "
            "columns): choose student.patch_size, data.image_size and data.frames so that both "
            "are equal"
        )


def check_losses(direct: Alignment, generation: Alignment | None, reconstruction: float) -> None:
    """Raise a UserError if every loss is off."""
    if not (direct.weight or generation or reconstruction):
        raise UserError(
            "nothing is left to learn: raise method.direct.weight, method.generation.weight (with "
            "a teacher that sees more than the student) or method.reconstruction.weight"
        )
