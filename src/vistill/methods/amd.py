"""AMD (Zhao et al., "Asymmetric Masked Distillation", CVPR 2024; spec amd): a masked autoencoder
that also learns, block by block, what a teacher with more sight knows of the same clip."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.heads.generator import FeatureGenerator
from vistill.heads.projector import unbiased_projector
from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.methods.amd_plan import (
    Alignment,
    check_grids,
    check_losses,
    choose_alignment,
    choose_sight,
)
from vistill.methods.base import Ingredients, Method
from vistill.methods.side import drop_path_noise, pixels_for, rising
from vistill.methods.videomae import HiddenPainter, Painting, TrainedOnSight, fixed_positions
from vistill.models.backbone import Backbone, Tap
from vistill.models.vit import VisionTransformer
from vistill.targets.whitening import whiten
from vistill.views.masking import NestedMask, Sight
from vistill.views.noise import Stream, per_sample_uniform

_DEFAULTS: dict[str, dict[str, Any]] = {
    "direct": {"pairs": None, "loss": "l2", "weight": 1.0},
    "generation": {
        "pairs": None,
        "loss": "l2",
        "weight": 1.0,
        "input": "serial",
        "depth": 2,
        "num_heads": None,
        "final_norm": False,
        "mask_token": "learned",
    },
    "reconstruction": {"weight": 1.0, "norm_pixels": True, "decoder": {}},
}


class TrainedAMD(TrainedOnSight):
    """Student, projections, generators and decoder.

    Args:
        student: the encoder.
        sight: what both sides see.
        projections: one per direct pair, or one for all.
        direct: the loss on tokens that both sides see.
        generation: the loss on tokens that the teacher alone sees; None: without.
        own_projections: of the generation, where it does not share the direct ones; or None.
        generators: one per pair of `generation`.
        painter: the pixel reconstruction; None: without.
        reconstruction_weight: its weight.
        sums: which of layers and channels are summed instead of averaged.
    """

    def __init__(
        self,
        student: VisionTransformer,
        sight: Sight,
        *,
        projections: nn.ModuleList,
        direct: Alignment,
        generation: Alignment | None,
        own_projections: nn.ModuleList | None,
        generators: nn.ModuleList,
        painter: HiddenPainter | None,
        reconstruction_weight: float,
        sums: frozenset[str],
    ) -> None:
        super().__init__(student, sight)
        self.projections, self.own_projections = projections, own_projections
        self.direct, self.generation, self.generators = direct, generation, generators
        self.painter, self.reconstruction_weight = painter, reconstruction_weight
        self.sums = sums

    def forward(self, batch: Batch, targets: dict[int, Tensor]) -> Losses:
        drops = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        return self.compare(batch.unit_pixels(), targets, self.draw(batch), drops)

    def draw(self, batch: Batch) -> NestedMask:
        """What both sides see of the batch."""
        return self.sight.mask(per_sample_uniform(batch.seeds, self.sight.positions, Stream.MASK))

    def compare(
        self,
        pixels: Float[Tensor, "b 3 *size"],
        targets: Mapping[int, Float[Tensor, "b n d"]],
        mask: NestedMask,
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Losses:
        """Losses of pixels in [0, 1] against the teacher's blocks.

        Args:
            pixels: what both sides see a part of.
            targets: output of each of the teacher's blocks: its prefix tokens, then those that
                both sides see, then those that it alone sees.
            mask: what is seen.
            drop_path_noise: see `Backbone.tap`.
        """
        images = self.student.normalization(pixels)
        norm, blocks = Tap("norm", self.student.depth), self._student_blocks()
        taps = [Tap("block", block) for block in blocks]
        if self.painter is not None:
            taps.append(norm)
        found = self.student.tap(
            images, taps, visible=mask.visible, drop_path_noise=drop_path_noise
        )
        features = {block: found[Tap("block", block)] for block in blocks}
        predictions = self.predict(features, mask)
        terms: dict[str, Tensor] = {}
        watched = _token_norms("student", features) | _token_norms("teacher", targets)
        total = images.new_zeros(())
        for name, alignment in (("direct", self.direct), ("generation", self.generation)):
            if name in predictions and alignment is not None:
                pairs = self._align(name, alignment, predictions[name], targets, mask)
                watched |= {pair: loss.detach() for pair, loss in pairs.items()}
                terms[name] = torch.stack([*pairs.values()]).sum()
                if "layer" not in self.sums:
                    terms[name] = terms[name] / len(pairs)
                total = total + alignment.weight * terms[name]
        if self.painter is not None:
            painting: Painting = self.painter(found[norm], pixels, images, mask)
            terms["reconstruction"] = painting.loss
            total = total + self.reconstruction_weight * painting.loss
        return Losses(total, {name: term.detach() for name, term in terms.items()}, watched)

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
            said["direct"] = [
                project(i, ours)[:, prefix:] for i, (ours, _) in enumerate(self.direct.pairs)
            ]
        if self.generation is not None:
            said["generation"] = []
            for i, (ours, _) in enumerate(self.generation.pairs):
                own = self.own_projections
                z = project(i, ours) if own is None else own[i % len(own)](features[ours])
                said["generation"].append(self.generators[i](z, mask.visible, mask.extra))
        return said

    def _align(
        self,
        name: str,
        alignment: Alignment,
        predictions: list[Tensor],
        targets: Mapping[int, Tensor],
        mask: NestedMask,
    ) -> dict[str, Tensor]:
        """The loss of every pair, by name."""
        kept, extra = mask.visible.shape[1], mask.extra.shape[1]
        found = {}
        for prediction, (ours, theirs) in zip(predictions, alignment.pairs, strict=True):
            patches = targets[theirs][:, -(kept + extra) :]
            target = patches[:, :kept] if name == "direct" else patches[:, kept:]
            term = alignment.distance(prediction, target)
            if "channel" in self.sums:
                term = term * prediction.shape[2]
            found[f"{name}_{ours}_{theirs}"] = term
        return found

    def _student_blocks(self) -> list[int]:
        pairs = (*(self.direct.pairs if self.direct.weight else ()),)
        pairs += () if self.generation is None else self.generation.pairs
        return sorted({ours for ours, _ in pairs})


def _token_norms(side: str, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Mean length of a token's feature by block."""
    return {
        f"{side}_norm_{block}": tokens.detach().float().norm(dim=-1).mean()
        for block, tokens in features.items()
    }


class AMD(Method):
    """Reconstruct hidden pixels, and match a teacher that sees more of the same clip or picture.

    Args:
        student: a ViT of clips, or of pictures with a class token.
        teacher: a frozen ViT with the same tubelets and the same grid of patches.
        mask: `tube` hides the same places in all frames, `random` chooses among all tokens;
            pictures know `random` only, whatever is given.
        student_mask_ratio, teacher_mask_ratio: hidden shares; None: 0.9 and 0.75 for clips, 0.75
            and 0.5 for pictures.
        direct: `pairs`, `loss`, `weight` of the loss on tokens that both sides see.
        generation: `pairs`, `loss`, `weight`, `input`, `depth`, `num_heads`, `final_norm` and
            `mask_token` of the loss on tokens that the teacher alone sees.
        reconstruction: `weight`, `norm_pixels` and `decoder`.
        projection: `linear`, or an `mlp` of two layers, from the student's width to the teacher's.
        shared_projection: one projection for all pairs instead of one per pair.
        layer_reduction, channel_reduction: `mean` as in the code, or `sum` as in the paper.
        target_norm: `layer_norm` of the teacher's features, or `none`.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    trained: TrainedAMD

    def __init__(
        self,
        student: VisionTransformer,
        teacher: VisionTransformer,
        *,
        mask: Literal["tube", "random"] = "tube",
        student_mask_ratio: float | None = None,
        teacher_mask_ratio: float | None = None,
        direct: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
        reconstruction: Mapping[str, Any] | None = None,
        projection: Literal["linear", "mlp"] = "linear",
        shared_projection: bool = False,
        layer_reduction: Literal["mean", "sum"] = "mean",
        channel_reduction: Literal["mean", "sum"] = "mean",
        target_norm: Literal["none", "layer_norm"] = "none",
    ) -> None:
        options = {
            name: default | dict(given or {})
            for (name, default), given in zip(
                _DEFAULTS.items(), (direct, generation, reconstruction), strict=True
            )
        }
        check_grids(student, teacher)
        clips = student.tubelet_size is not None
        ratios = (0.9, 0.75) if clips else (0.75, 0.5)
        sight = choose_sight(
            student,
            ratios[0] if student_mask_ratio is None else student_mask_ratio,
            ratios[1] if teacher_mask_ratio is None else teacher_mask_ratio,
            tube=mask == "tube",
        )
        aligned = choose_alignment("direct", options["direct"], student, teacher)
        wanted = options["generation"]
        generated = None
        if wanted["weight"] and sight.seen > sight.visible:  # otherwise nothing is left to generate
            wanted = wanted | {"pairs": wanted["pairs"] or aligned.pairs}
            generated = choose_alignment("generation", wanted, student, teacher)
        serial = wanted["input"] == "serial"
        if generated and serial and len(generated.pairs) > len(aligned.pairs):
            raise UserError(
                f"method.generation.pairs has {len(generated.pairs)} pairs, but there are only "
                f"{len(aligned.pairs)} projections, one for each of method.direct.pairs"
            )
        check_losses(aligned, generated, options["reconstruction"]["weight"])

        def project(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                unbiased_projector(projection, student.width, teacher.width)
                for _ in range(1 if shared_projection else count)
            )

        painting = options["reconstruction"]
        trained = TrainedAMD(
            student,
            sight,
            projections=project(len(aligned.pairs)),
            direct=aligned,
            generation=generated,
            own_projections=project(len(generated.pairs)) if generated and not serial else None,
            generators=nn.ModuleList(
                _generator(student, teacher, wanted)
                for _ in range(len(generated.pairs) if generated else 0)
            ),
            painter=HiddenPainter(student, painting["decoder"], painting["norm_pixels"])
            if painting["weight"]
            else None,
            reconstruction_weight=painting["weight"],
            sums=frozenset(
                name
                for name, how in (("layer", layer_reduction), ("channel", channel_reduction))
                if how == "sum"
            ),
        )
        super().__init__(trained, teacher)
        self._draw = trained.draw  # not reached through what ranks wrap around `trained`
        used = {theirs for _, theirs in aligned.pairs} if aligned.weight else set()
        used |= {theirs for _, theirs in generated.pairs} if generated else set()
        self.teacher_blocks, self.target_norm = sorted(used), target_norm

    def targets(self, batch: Batch) -> dict[int, Tensor]:
        return self.observe(batch.unit_pixels(), self._draw(batch))

    def observe(
        self, pixels: Float[Tensor, "b 3 *size"], mask: NestedMask
    ) -> dict[int, Float[Tensor, "b n d"]]:
        """The teacher's blocks on the tokens it sees; it goes no deeper than the last of them."""
        teacher = cast("Backbone", self.teacher)
        taps = [Tap("block", block) for block in self.teacher_blocks]
        if not taps:
            return {}
        images = teacher.normalization(pixels_for(teacher, pixels))
        found = teacher.tap(images, taps, visible=mask.seen)
        return {
            tap.block: whiten(signal) if self.target_norm == "layer_norm" else signal
            for tap, signal in found.items()
        }


def _generator(
    student: VisionTransformer, teacher: VisionTransformer, options: Mapping[str, Any]
) -> FeatureGenerator:
    heads = options["num_heads"] or max(1, teacher.width // 64)
    if teacher.width % heads:
        raise UserError(
            f"the teacher's width {teacher.width} cannot be split into {heads} heads of a "
            "generator; set method.generation.num_heads"
        )
    clips = student.tubelet_size is not None
    return FeatureGenerator(
        options["depth"],
        heads,
        positions=fixed_positions(student, teacher.width),
        num_prefix=student.num_prefix_tokens,
        mask_token=options["mask_token"],
        final_norm=options["final_norm"],
        qkv_bias="no_key" if clips else "all",
        mlp_ratio=student.mlp_ratio,
    )


def build_amd(given: Ingredients) -> AMD:
    """AMD from a configuration.

    Raises:
        UserError: there is no teacher, or the two do not fit together.
    """
    teacher = given.teacher("amd")
    for side, model in (("student", given.student), ("teacher", teacher)):
        if not isinstance(model, VisionTransformer):
            raise UserError(f"amd hides tokens, so it needs a plain ViT, and the {side} is none")
    if given.teacher_block is not None:
        raise UserError("teacher.block has no use with amd: method.direct.pairs names the blocks")
    if given.teacher_drop_path:
        raise UserError("teacher.drop_path has no use with amd, whose teacher runs as in tests")
    student = cast("VisionTransformer", given.student)
    if given.student_drop_path:
        student.set_drop_path(rising(given.student_drop_path, student.depth))
    return AMD(student, cast("VisionTransformer", teacher), **given.options)
