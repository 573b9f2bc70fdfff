"""UMT, stage 1 (Li et al., arXiv 2303.16058; spec umt 2-5): what an image teacher says of whole
frames is learned at the few tokens that a student of clips sees; nothing is reconstructed."""

from typing import Any, Self

from jaxtyping import Float, Int
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.config.umt import UMTConfig
from vistill.errors import UserError
from vistill.heads.alignment_decoder import AlignmentDecoders
from vistill.losses.alignment import ALIGNMENTS
from vistill.methods.base import weighted
from vistill.methods.frame_targets import FrameTargets, Target, key_of
from vistill.methods.frame_teacher import FrameTeacher
from vistill.methods.ingredients import Ingredients
from vistill.methods.mask_choice import MaskChoice
from vistill.methods.side import Side, rising
from vistill.models.backbone import Backbone, Tap
from vistill.models.vit import VisionTransformer
from vistill.random.streams import per_sample_uniform


class UMT(FrameTargets):
    """See `UMTConfig` for the switches.

    Args:
        student: a plain ViT of clips (or of pictures), mostly without a class token.
        teacher: a frozen image transformer with the same grid of patches.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    student: VisionTransformer

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: UMTConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or UMTConfig()
        if not isinstance(student, VisionTransformer):
            raise UserError("umt hides tokens from its student, which has to be a plain ViT")
        positions = student.grid[0] * student.grid[1]
        ratio = config.mask_ratio, "method.mask_ratio"
        self.choose = MaskChoice(config, *ratio, student.slots, positions, config.masks)
        blocks = returned(self.theirs, config.aligned_layers, config.teacher_interval, "teacher")
        self.looks = FrameTeacher(
            self.theirs,
            slots=student.slots,
            grid=student.grid,
            blocks=blocks,
            config=config,
            masks=config.masks,
        )
        ours = returned(self.ours, config.aligned_layers, config.student_interval, "student")
        self.taps = [Tap("block", block) for block in ours]
        self.decoders = AlignmentDecoders(
            student.width,
            self.looks.width,
            config.aligned_layers,
            student.num_patches,
            norm_eps=student.norm_eps,
            unit_length=config.norm == "l2",
        )
        self.ours.drop_path(rising(drop_path, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        return cls(given.student, given.teacher, given.config, drop_path=rate)

    def see(
        self, batch: Batch, images: Tensor, visible: Int[Tensor, "m n"] | None
    ) -> list[Float[Tensor, "m n d"]]:
        """The student's aligned layers behind its final norm, without prefix tokens; a row for
        every clip and mask."""
        model, masks = self.student, self.config.masks
        draws = model.num_drop_path_draws
        noise = None
        if draws:
            drawn = per_sample_uniform(batch.seeds, masks * draws, self.ours.stream)
            noise = drawn.reshape(-1, draws).T
        shown = images.repeat_interleave(masks, dim=0) if masks > 1 else images
        found = model.tap(shown, self.taps, visible=visible, drop_path_noise=noise)
        return [model.final_norm(found[tap])[:, model.num_prefix_tokens :] for tap in self.taps]

    def looked_at(self, batch: Batch) -> tuple[FrameTeacher, MaskChoice]:
        return self.looks, self.choose

    @property
    def masks(self) -> int:
        return self.config.masks

    def cache_key(self) -> dict[str, Any]:
        return key_of(self.looks, self.choose, self.student)

    def compare(self, batch: Batch, target: Target) -> Losses:
        visible, targets = target
        found = self.see(batch, self.ours.images(batch), visible)
        predictions = self.decoders(found, visible)
        loss = ALIGNMENTS[self.config.loss](predictions, targets)
        return weighted({"alignment": (self.config.weight, loss)})


def returned(side: Side, layers: int, interval: float, setting: str) -> list[int]:
    """Blocks that are aligned, ascending and counted from 1: depth - ⌊i · interval⌋ (spec umt 2).

    Raises:
        UserError: the model has not so many.
    """
    depth = side.model.depth
    if not depth:
        raise UserError(f"umt aligns transformer blocks, and the {side.name} has none")
    blocks = [depth - int(i * interval) for i in reversed(range(layers))]
    if blocks[0] < 1 or len(set(blocks)) < layers:
        raise UserError(
            f"method.aligned_layers={layers} in steps of method.{setting}_interval={interval:g} "
            f"do not fit into the {side.name}'s {depth} blocks; take fewer"
        )
    return blocks
