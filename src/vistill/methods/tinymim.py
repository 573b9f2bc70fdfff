"""TinyMIM (Ren et al., arXiv 2301.01296; spec 4-6): distil an intermediate block of a
masked-image-modelling teacher into the last block of a student, by token relations by default."""

from dataclasses import replace
from typing import Any, Literal, Self, cast

from torch import Tensor

from vistill.augment.jitter import color_jitter
from vistill.batch import Batch, Losses
from vistill.config.methods import TinyMIMConfig
from vistill.errors import UserError
from vistill.heads.pixel_decoder import Painter
from vistill.methods.base import weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.mae import check_mask_ratio, picture_mask
from vistill.methods.shared_view import SharedView
from vistill.methods.tinymim_targets import TARGETS
from vistill.methods.two_sides import same_grid
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import Mask


class TinyMIM(SharedView):
    """See `TinyMIMConfig` for the switches.

    Args:
        student: the model to be trained; its last block is matched.
        teacher: a frozen transformer.
        config: the switches.
        block: of the teacher, counted from 1, or `last`; None: 18 of 24, else the last.
        drop_path: constant rate on all of the student's blocks but the last.
        teacher_drop_path: above zero runs the teacher in training mode (an ablation).

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: TinyMIMConfig | None = None,
        *,
        block: int | Literal["last"] | None = None,
        drop_path: float = 0.1,
        teacher_drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or TinyMIMConfig()
        for side in (self.ours, self.theirs):
            if not side.model.depth:
                raise UserError(f"tinymim reads transformer blocks, and the {side.name} has none")
        if block in (None, "last"):
            block = 18 if block is None and teacher.depth == 24 else teacher.depth
        self.target = TARGETS[config.target](self.ours, self.theirs, config, int(block))
        self.targets_change = bool(config.relation.early_blocks)
        masked = config.input == "masked"
        for side in (self.ours, self.theirs) if masked else ():
            if not isinstance(side.model, VisionTransformer):
                raise UserError(
                    f"method.input=masked needs a plain ViT, and the {side.name} is none"
                )
        if masked:
            check_mask_ratio(cast(VisionTransformer, student), config.mask_ratio)
            same_grid(self.ours, self.ours.tap("block"), self.theirs, self.theirs.tap("block"))
        self.ours.drop_path([drop_path] * (student.depth - 1) + [0.0])
        if teacher_drop_path > 0:
            self.theirs.drop_path([teacher_drop_path] * teacher.depth)
            teacher.train()
        aux = config.aux_mim
        self.painter: Painter | None = None
        if aux.weight > 0:
            vit = cast(VisionTransformer, student)
            self.painter = Painter(vit, aux.decoder.model_dump(), aux.norm_pixels)

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path
        return cls(
            given.student,
            given.teacher,
            given.config,
            block=given.teacher_block,
            drop_path=0.1 if rate is None else rate,
            teacher_drop_path=given.teacher_drop_path,
        )

    def mask(self, batch: Batch) -> Mask | None:
        """Which patches both sides see; None: all of them."""
        if self.config.input == "raw":
            return None
        student = cast(VisionTransformer, self.student)
        return picture_mask(student, batch.view_seeds, self.config.mask_ratio)

    def student_view(self, batch: Batch) -> Batch:
        """The picture in the student's colours: jittered in training, for it alone."""
        strengths = self.config.student_color_jitter
        if strengths is None or not self.training:
            return batch
        return replace(batch, pixels=color_jitter(batch.unit_pixels(), batch.seeds, strengths))

    def reached(self, progress: float) -> None:
        self.target.reached(progress)

    def cache_key(self) -> dict[str, Any]:
        tap, masked = self.target.taps[1], self.config.input == "masked"
        return {
            "signal": tap.kind,
            "block": tap.block,
            "part": self.target.reads,
            "hidden": self.config.mask_ratio if masked else 0.0,
        }

    def teacher_features(self, batch: Batch) -> Tensor:
        """What the target reads of the teacher's block: tokens, or the class token."""
        tap, mask = self.target.their_tap(), self.mask(batch)
        visible = None if mask is None else mask.visible
        return self.target.kept(self.theirs.see(batch, [tap], visible=visible)[tap])

    def target_of(self, features: Tensor) -> Tensor:
        """The same; only the student's side of it is learned."""
        return features

    def compare(self, batch: Batch, target: Tensor) -> Losses:
        mask, our_tap = self.mask(batch), self.target.taps[0]
        visible = None if mask is None else mask.visible
        view = self.student_view(batch)
        images, norm = self.ours.images(view), self.ours.tap("norm")
        taps = [our_tap, norm] if self.painter else [our_tap]
        found = self.ours.see(view, taps, visible=visible, images=images)
        terms = {name: (1.0, loss) for name, loss in self.target(found[our_tap], target).items()}
        if self.painter is not None and mask is not None:
            painted = self.painter(found[norm], images, mask)
            terms["reconstruction"] = self.config.aux_mim.weight, painted.loss
        return weighted(terms)
