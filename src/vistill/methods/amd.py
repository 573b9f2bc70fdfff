"""AMD (Zhao et al., "Asymmetric Masked Distillation", CVPR 2024; spec amd): a masked autoencoder
that also learns, block by block, what a teacher with more sight knows of the same clip."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.clip_methods import AMDConfig
from vistill.heads.hidden_painter import HiddenPainter
from vistill.methods.amd_alignment import check_losses, plan_alignments
from vistill.methods.amd_plan import (
    generator,
    plain_vits,
    plan_mask_sizes,
    projections,
    token_norms,
)
from vistill.methods.base import weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.shared_view import SharedView
from vistill.methods.side import rising
from vistill.methods.videomae import drawn_mask
from vistill.models.backbone import Backbone, Tap
from vistill.targets.whitening import whiten
from vistill.tokens.masks import NestedMask


class AMD(SharedView):
    """See `AMDConfig` for the switches.

    Args:
        student: a plain ViT of clips, or of pictures with a class token.
        teacher: a frozen one with the same tubelets and the same grid of patches.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    no_decay = ("mask_token",)

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: AMDConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or AMDConfig()
        vits = plain_vits(self.ours, self.theirs)
        self.mask_sizes = plan_mask_sizes(config, vits[0])
        self.direct, self.generation = plan_alignments(config, *vits, self.mask_sizes)
        check_losses(self.direct, self.generation, config.reconstruction.weight)
        self.projections = projections(config, *vits, len(self.direct.pairs))
        self.own_projections: nn.ModuleList | None = None
        generated = self.generation.pairs if self.generation else ()
        if generated and config.generation.input == "parallel":
            self.own_projections = projections(config, *vits, len(generated))
        self.generators = nn.ModuleList(generator(config.generation, *vits) for _ in generated)
        self.painter: HiddenPainter | None = None
        if config.reconstruction.weight:
            sizes = config.reconstruction.decoder.model_dump()
            self.painter = HiddenPainter(vits[0], sizes, config.reconstruction.norm_pixels)
        self.ours.drop_path(rising(drop_path, student.depth))
        used = [*(self.direct.pairs if self.direct.weight else ()), *generated]
        self.student_blocks = sorted({ours for ours, _ in used})
        self.teacher_blocks = sorted({theirs for _, theirs in used})

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        return cls(given.student, given.teacher, given.config, drop_path=rate)

    def mask(self, batch: Batch) -> NestedMask:
        """What both sides see of the batch: the student a part of what the teacher sees."""
        return drawn_mask(self.mask_sizes, batch.view_seeds)

    def cache_key(self) -> dict[str, Any]:
        return {"signal": "block", "blocks": self.teacher_blocks, "mask_sizes": [*self.mask_sizes]}

    def teacher_features(self, batch: Batch) -> dict[str, Float[Tensor, "b n d"]]:
        """The teacher's blocks on the tokens it sees; it goes no deeper than the last of them."""
        taps = {f"block{block}": Tap("block", block) for block in self.teacher_blocks}
        seen = self.mask(batch).seen
        found = self.theirs.see(batch, [*taps.values()], visible=seen) if taps else {}
        return {name: found[tap] for name, tap in taps.items()}

    def target_of(self, features: Mapping[str, Tensor]) -> dict[int, Float[Tensor, "b n d"]]:
        """By block, normed if the configuration says so."""
        normed = self.config.target_norm == "layer_norm"
        said = zip(self.teacher_blocks, features.values(), strict=True)
        return {block: whiten(tokens) if normed else tokens for block, tokens in said}

    def predict(
        self, features: Mapping[int, Float[Tensor, "b n d"]], mask: NestedMask
    ) -> dict[str, list[Tensor]]:
        """What the student says, pair by pair, at the teacher's width: projected features of the
        tokens both sides see (`direct`) and generated ones of the others (`generation`)."""
        prefix = self.student.num_prefix_tokens
        projected: dict[tuple[int, int], Tensor] = {}

        def project(index: int, block: int) -> Tensor:
            # Both losses mostly read the same projection of the same block.
            which = index % len(self.projections)
            if (which, block) not in projected:
                projected[which, block] = self.projections[which](features[block])
            return projected[which, block]

        said: dict[str, list[Tensor]] = {}
        if self.direct.weight:
            pairs = enumerate(self.direct.pairs)
            said["direct"] = [project(i, ours)[:, prefix:] for i, (ours, _) in pairs]
        if self.generation is not None:
            said["generation"] = []
            own = self.own_projections
            for i, (ours, _) in enumerate(self.generation.pairs):
                z = project(i, ours) if own is None else own[i % len(own)](features[ours])
                said["generation"].append(self.generators[i](z, mask.visible, mask.extra))
        return said

    def compare(self, batch: Batch, target: Mapping[int, Float[Tensor, "b n d"]]) -> Losses:
        mask = self.mask(batch)
        images, norm = self.ours.images(batch), self.ours.tap("norm")
        blocks = {block: Tap("block", block) for block in self.student_blocks}
        taps = [*blocks.values(), *([norm] if self.painter else [])]
        found = self.ours.see(batch, taps, visible=mask.visible, images=images)
        features = {block: found[tap] for block, tap in blocks.items()}
        predictions = self.predict(features, mask)
        terms: dict[str, tuple[float, Tensor]] = {}
        watched = token_norms("student", features) | token_norms("teacher", target)
        for name, alignment in (("direct", self.direct), ("generation", self.generation)):
            if alignment is not None and name in predictions:
                losses = alignment.losses(predictions[name], target, mask)
                watched |= {f"{name}_{ours}_{theirs}": v for (ours, theirs), v in losses.items()}
                total = torch.stack([*losses.values()]).sum()
                if self.config.layer_reduction == "mean":
                    total = total / len(losses)
                terms[name] = alignment.weight, total
        if self.painter is not None:
            painting = self.painter(found[norm], batch.unit_pixels(), images, mask)
            terms["reconstruction"] = self.config.reconstruction.weight, painting.loss
        return weighted(terms, watched)
