"""What an AMD run is made of, chosen and checked before any work: two plain ViTs of one grid, what
each sees, projections and generator (spec amd 4, 6)."""

from collections.abc import Mapping

from torch import Tensor, nn

from vistill.config.clip_methods import AMDConfig, GenerationConfig
from vistill.errors import UserError
from vistill.heads.generator import FeatureGenerator
from vistill.heads.hidden_painter import fixed_positions
from vistill.heads.projector import unbiased_projector
from vistill.methods.side import Side
from vistill.methods.videomae import check_mask_sizes
from vistill.models.vit import VisionTransformer
from vistill.nearest import near_divisors
from vistill.tokens.masks import MaskSizes, clip_mask_sizes, picture_mask_sizes


def plan_mask_sizes(config: AMDConfig, student: VisionTransformer) -> MaskSizes:
    """What both sides see of the student's input.

    Raises:
        UserError: the teacher would see less than the student, or the student nothing.
    """
    clips = student.tubelet_size is not None
    ratio, teacher_ratio = (0.9, 0.75) if clips else (0.75, 0.5)
    ratio = ratio if config.student_mask_ratio is None else config.student_mask_ratio
    if config.teacher_mask_ratio is not None:
        teacher_ratio = config.teacher_mask_ratio
    if ratio < teacher_ratio:
        raise UserError(
            f"method.student_mask_ratio={ratio} is below "
            f"method.teacher_mask_ratio={teacher_ratio}, but the teacher has to see whatever the "
            "student sees"
        )
    positions = student.grid[0] * student.grid[1]
    if clips:
        tube = config.mask == "tube"
        sizes = clip_mask_sizes(student.slots, positions, ratio, teacher_ratio, tube=tube)
    else:
        sizes = picture_mask_sizes(positions, ratio, teacher_ratio)
    check_mask_sizes(sizes, "method.student_mask_ratio", ratio)
    if sizes.seen == sizes.visible and ratio > teacher_ratio:
        raise UserError(
            f"of {sizes.positions} positions both mask ratios, {ratio} and {teacher_ratio}, leave "
            f"{sizes.visible}: lower method.teacher_mask_ratio, or give both the same for a "
            "teacher that sees no more than the student"
        )
    return sizes


def projections(
    config: AMDConfig, student: VisionTransformer, teacher: VisionTransformer, count: int
) -> nn.ModuleList:
    """From the student's width to the teacher's: one per pair, or one for all."""
    return nn.ModuleList(
        unbiased_projector(config.projection, student.width, teacher.width)
        for _ in range(1 if config.shared_projection else count)
    )


def generator(
    options: GenerationConfig, student: VisionTransformer, teacher: VisionTransformer
) -> FeatureGenerator:
    """Completes the teacher's features where the student saw nothing.

    Raises:
        UserError: the teacher's width cannot be split into the heads.
    """
    heads = options.num_heads or max(1, teacher.width // 64)
    if teacher.width % heads:
        raise UserError(
            f"the teacher's width {teacher.width} cannot be split into {heads} heads of a "
            f"generator; method.generation.num_heads={near_divisors(teacher.width, heads)} would do"
        )
    return FeatureGenerator(
        options.depth,
        heads,
        positions=fixed_positions(student, teacher.width),
        num_prefix=student.num_prefix_tokens,
        mask_token=options.mask_token,
        final_norm=options.final_norm,
        parts=student.parts,
    )


def plain_vits(ours: Side, theirs: Side) -> tuple[VisionTransformer, VisionTransformer]:
    """Student and teacher, whose tokens can be hidden and compared one by one.

    Raises:
        UserError: one is no plain ViT, or they cut their inputs into other tokens.
    """
    student, teacher = ours.model, theirs.model
    for side in (ours, theirs):
        if not isinstance(side.model, VisionTransformer):
            raise UserError(
                f"amd hides tokens, so it needs a plain ViT, and the {side.name} is none"
            )
    assert isinstance(student, VisionTransformer)
    assert isinstance(teacher, VisionTransformer)
    _check_grids(student, teacher)
    return student, teacher


def _check_grids(student: VisionTransformer, teacher: VisionTransformer) -> None:
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


def token_norms(side: str, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Mean length of a token's feature by block."""
    return {
        f"{side}_norm_{block}": tokens.detach().float().norm(dim=-1).mean()
        for block, tokens in features.items()
    }
