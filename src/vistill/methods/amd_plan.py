"""What an AMD run is made of, chosen and checked before any work: what is seen, which blocks are
paired, which losses are on (spec amd 4, 6, 8)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from vistill.config.clip_methods import AMDConfig, DirectConfig, GenerationConfig
from vistill.errors import UserError
from vistill.heads.generator import FeatureGenerator
from vistill.heads.hidden_painter import fixed_positions
from vistill.heads.projector import unbiased_projector
from vistill.losses.distances import l1, mse, smooth_l1
from vistill.methods.side import Side
from vistill.methods.videomae import check_mask_sizes
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.nearest import near_divisors, same_depth
from vistill.tokens.masks import MaskSizes, NestedMask, clip_mask_sizes, picture_mask_sizes

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
        extra: whether it compares the tokens that the teacher alone sees, or those of both sides.
        sum_channels: whether channels are summed instead of averaged.
    """

    pairs: tuple[tuple[int, int], ...]
    distance: Callable[[Tensor, Tensor], Tensor]
    weight: float
    extra: bool
    sum_channels: bool

    def losses(
        self,
        predictions: Sequence[Float[Tensor, "b n d"]],
        targets: Mapping[int, Float[Tensor, "b m d"]],
        mask: NestedMask,
    ) -> dict[tuple[int, int], Tensor]:
        """The loss of every pair.

        Args:
            predictions: by pair, of the tokens that are compared.
            targets: by block of the teacher: prefix, tokens of both sides, tokens of its own.
            mask: what is seen.
        """
        kept, extra = mask.visible.shape[1], mask.extra.shape[1]
        found = {}
        for prediction, pair in zip(predictions, self.pairs, strict=True):
            patches = targets[pair[1]][:, -(kept + extra) :]
            loss = self.distance(prediction, patches[:, kept:] if self.extra else patches[:, :kept])
            found[pair] = loss * prediction.shape[2] if self.sum_channels else loss
        return found


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
                near = [
                    [same_depth(a, student.depth), same_depth(b, teacher.depth)] for a, b in pairs
                ]
                raise UserError(
                    f"{setting}: there is no block {block}, as the {side} has {model.depth}; as "
                    f"deep in these two are {setting}={str(near).replace(' ', '')}"
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


def plan_alignments(
    config: AMDConfig, student: VisionTransformer, teacher: VisionTransformer, sizes: MaskSizes
) -> tuple[Alignment, Alignment | None]:
    """The direct loss, and the generation where the teacher sees more than the student.

    Raises:
        UserError: a block is not there, comes twice, the two sides do not ascend together, or a
            generator has no projection to read.
    """
    sums = config.channel_reduction == "sum"

    def alignment(
        name: str, wanted: DirectConfig | GenerationConfig, pairs: Pairs | None
    ) -> Alignment:
        chosen = _choose_pairs(name, pairs, student, teacher)
        extra = name == "generation"
        return Alignment(chosen, _DISTANCES[wanted.loss], wanted.weight, extra, sums)

    direct, wanted = alignment("direct", config.direct, config.direct.pairs), config.generation
    if not wanted.weight or sizes.seen == sizes.visible:
        return direct, None
    generation = alignment("generation", wanted, wanted.pairs or direct.pairs)
    if wanted.input == "serial" and len(generation.pairs) > len(direct.pairs):
        raise UserError(
            f"method.generation.pairs has {len(generation.pairs)} pairs, but there are only "
            f"{len(direct.pairs)} projections, one for each of method.direct.pairs"
        )
    return direct, generation


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


def check_losses(direct: Alignment, generation: Alignment | None, reconstruction: float) -> None:
    """Raise a UserError if every loss is off."""
    if not (direct.weight or generation or reconstruction):
        raise UserError(
            "nothing is left to learn: raise method.direct.weight, method.generation.weight (with "
            "a teacher that sees more than the student) or method.reconstruction.weight"
        )


def token_norms(side: str, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Mean length of a token's feature by block."""
    return {
        f"{side}_norm_{block}": tokens.detach().float().norm(dim=-1).mean()
        for block, tokens in features.items()
    }
