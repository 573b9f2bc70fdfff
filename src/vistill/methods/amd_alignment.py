"""AMD's two alignment losses: which blocks are paired, how they are compared (spec amd 6, 8)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vistill.config.clip_methods import AMDConfig, DirectConfig, GenerationConfig
from vistill.errors import UserError
from vistill.losses.distances import l1, mse, smooth_l1
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.nearest import same_depth
from vistill.tokens.masks import MaskSizes, NestedMask

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


def check_losses(direct: Alignment, generation: Alignment | None, reconstruction: float) -> None:
    """Raise a UserError if every loss is off."""
    if not (direct.weight or generation or reconstruction):
        raise UserError(
            "nothing is left to learn: raise method.direct.weight, method.generation.weight (with "
            "a teacher that sees more than the student) or method.reconstruction.weight"
        )
