"""TinyMIM (Ren et al., arXiv 2301.01296; spec 4-6): distil an intermediate block of a
masked-image-modelling teacher into the last block of a student, by token relations by default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.heads.projector import linear_projector
from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses.distances import mse, smooth_l1, softmax_kl
from vistill.losses.relation import relation_loss
from vistill.methods.base import Ingredients, Method, TrainedModule
from vistill.methods.mae import DECODER, Painter, check_mask_ratio
from vistill.methods.side import drop_path_noise, pixels_for, set_drop_path
from vistill.models.backbone import Backbone, Tap, TapKind
from vistill.models.vit import VisionTransformer
from vistill.targets.whitening import whiten
from vistill.views.color_jitter import color_jitter
from vistill.views.masking import Mask, random_mask
from vistill.views.noise import Stream, per_sample_uniform

Pair = Literal["qk", "qq", "kk", "vv"]
_QKV_INDEX = {"q": 0, "k": 1, "v": 2}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "relation": {"pairs": ("qk", "vv"), "softmax": True, "heads": None},
    "feature": {"kind": "block", "residual": False},
    "class_token": {"loss": "kl"},
    "aux_mim": {"weight": 0.0, "norm_pixels": True, "decoder": DECODER},
}
_CLASS_TOKEN_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": softmax_kl,
    "mse": mse,
    "smooth_l1": smooth_l1,
}


@dataclass(frozen=True)
class Target:
    """What is matched: a signal of the teacher, the student's signal, and how they are compared.

    Attributes:
        kind: relations, whitened features, or the class token.
        teacher_tap: signal read from the teacher.
        student_tap: signal read from the student.
        pairs: relations that are matched (`relation`).
        num_heads: heads of both sides (`relation`).
        softmax: KL of softmaxed relations, or smooth L1 of scaled products (`relation`).
        class_token_loss: `kl`, `mse` or `smooth_l1` (`class_token`).
    """

    kind: Literal["relation", "feature", "class_token"]
    teacher_tap: Tap
    student_tap: Tap
    pairs: tuple[Pair, ...] = ("qk", "vv")
    num_heads: int = 1
    softmax: bool = True
    class_token_loss: str = "kl"


def feature_tap(kind: str, residual: bool, block: int, depth: int) -> Tap:
    """The tap of a feature target at `block` of a model with `depth` blocks (spec 5)."""
    taps: dict[str, tuple[TapKind, int]] = {
        "output": ("block", depth),
        "block": ("block", block),
        "attention": ("attention_residual" if residual else "attention", block),
        "ffn": ("block" if residual else "ffn", block),
        "qkv": ("qkv", block),
    }
    return Tap(*taps[kind])


def choose_target(
    kind: Literal["relation", "feature", "class_token"],
    student: Backbone,
    teacher: Backbone,
    block: int,
    options: Mapping[str, Mapping[str, Any]],
) -> Target:
    """The target that the switches describe, at `block` of the teacher.

    Raises:
        UserError: if both sides cannot be split into the same number of heads.
    """
    relation, feature = options["relation"], options["feature"]
    if kind == "relation":
        num_heads = relation["heads"] or teacher.num_heads[block - 1]
        _check_heads(num_heads, student.width, teacher.width)
        taps = Tap("qkv", block), Tap("qkv", student.depth)
        return Target(kind, *taps, tuple(relation["pairs"]), num_heads, relation["softmax"])
    if kind == "feature":
        names = feature["kind"], feature["residual"]
        return Target(
            kind,
            feature_tap(*names, block, teacher.depth),
            feature_tap(*names, student.depth, student.depth),
        )
    taps = Tap("norm", teacher.depth), Tap("norm", student.depth)
    return Target(kind, *taps, class_token_loss=options["class_token"]["loss"])


class TrainedTinyMIM(TrainedModule):
    """Student, feature projectors and, with auxiliary reconstruction, the MAE decoder."""

    def __init__(
        self,
        student: Backbone,
        target: Target,
        teacher_width: int,
        mask_ratio: float | None,
        jitter: tuple[float, float, float] | None,
        painter: Painter | None,
        aux_weight: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.target = target
        self.mask_ratio = mask_ratio
        self.jitter = jitter
        self.painter = painter
        self.aux_weight = aux_weight
        count = {"relation": 0, "feature": 1, "class_token": 1}[target.kind]
        if target.kind == "feature" and target.student_tap.kind == "qkv":
            count = 3
        self.projectors = nn.ModuleList(
            linear_projector(student.width, teacher_width) for _ in range(count)
        )

    def forward(self, batch: Batch, targets: Tensor) -> Losses:
        pixels = batch.unit_pixels()
        if self.jitter is not None and self.training:
            pixels = color_jitter(pixels, batch.seeds, self.jitter)
        images = self.student.normalization(pixels)
        noise = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        return self.compare(
            images, targets, shared_mask(self.student, batch, self.mask_ratio), noise
        )

    def compare(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Tensor,
        mask: Mask | None = None,
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Losses:
        """Losses of normalised student images against what the teacher's tap gave."""
        taps = [self.target.student_tap]
        norm = Tap("norm", self.student.depth)
        if self.painter is not None:
            taps.append(norm)
        found = self.student.tap(
            images,
            taps,
            visible=None if mask is None else mask.visible,
            drop_path_noise=drop_path_noise,
        )
        terms = self._terms(found[self.target.student_tap], targets)
        total = sum(terms.values(), start=images.new_zeros(()))
        if self.painter is not None and mask is not None:
            terms["reconstruction"] = self.painter(found[norm], images, mask).loss
            total = total + self.aux_weight * terms["reconstruction"]
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    def _terms(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        target = self.target
        if target.kind == "relation":
            return {
                pair: relation_loss(
                    _factors(student, pair),
                    _factors(teacher, pair),
                    target.num_heads,
                    softmax=target.softmax,
                )
                for pair in target.pairs
            }
        if target.kind == "class_token":
            distance = _CLASS_TOKEN_LOSSES[target.class_token_loss]
            return {"class_token": distance(self.projectors[0](student[:, 0]), teacher[:, 0])}
        if target.student_tap.kind == "qkv":
            return {
                name: smooth_l1(self.projectors[i](student[:, :, i]), whiten(teacher[:, :, i]))
                for name, i in _QKV_INDEX.items()
            }
        return {"feature": smooth_l1(self.projectors[0](student), whiten(teacher))}


def shared_mask(student: Backbone, batch: Batch, mask_ratio: float | None) -> Mask | None:
    """Which patches both sides see; None: all of them."""
    if mask_ratio is None:
        return None
    length = cast("VisionTransformer", student).num_patches
    return random_mask(per_sample_uniform(batch.seeds, length, Stream.MASK), mask_ratio)


def _factors(qkv: Float[Tensor, "b n 3 d"], pair: Pair) -> tuple[Tensor, Tensor]:
    return qkv[:, :, _QKV_INDEX[pair[0]]], qkv[:, :, _QKV_INDEX[pair[1]]]


class TinyMIM(Method):
    """Distil one block of the teacher into the student's last block.

    Args:
        student: the model to be trained.
        teacher: a frozen transformer.
        target: `relation` (default), `feature` or `class_token`.
        relation: `pairs`, `softmax`, `heads` (None: the heads of the teacher's block).
        feature: `kind` and `residual`.
        class_token: `loss`.
        input: `raw`, or `masked`: both sides see the same visible patches.
        mask_ratio: share of hidden patches where masked.
        aux_mim: `weight`, `norm_pixels`, `decoder` of the auxiliary reconstruction.
        student_color_jitter: brightness, contrast, saturation strength, or None.
        teacher_block: block that is read, counted from 1; None: 18 of 24, else the last.
        student_drop_path: constant rate on all blocks but the last.
        teacher_drop_path: above zero runs the teacher in training mode (an ablation).

    Raises:
        UserError: if teacher and student do not fit together.
    """

    trained: TrainedTinyMIM

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        target: Literal["relation", "feature", "class_token"] = "relation",
        relation: Mapping[str, Any] | None = None,
        feature: Mapping[str, Any] | None = None,
        class_token: Mapping[str, Any] | None = None,
        input: Literal["raw", "masked"] = "raw",
        mask_ratio: float = 0.75,
        aux_mim: Mapping[str, Any] | None = None,
        student_color_jitter: tuple[float, float, float] | None = (0.4, 0.4, 0.4),
        teacher_block: int | None = None,
        student_drop_path: float = 0.1,
        teacher_drop_path: float = 0.0,
    ) -> None:
        options = {
            name: default | dict(given or {})
            for (name, default), given in zip(
                _DEFAULTS.items(), (relation, feature, class_token, aux_mim), strict=True
            )
        }
        for side, model in (("student", student), ("teacher", teacher)):
            if not model.depth:
                raise UserError(f"tinymim reads transformer blocks, and the {side} has none")
        block = teacher_block or (18 if teacher.depth == 24 else teacher.depth)
        if block > teacher.depth:
            raise UserError(f"teacher.block={block}, but the teacher has {teacher.depth} blocks")
        chosen = choose_target(target, student, teacher, block, options)
        _check_fit(student, teacher, chosen, masked=input == "masked")

        if input == "masked" and isinstance(student, VisionTransformer):
            check_mask_ratio(student, mask_ratio)
        rates = [student_drop_path] * (student.depth - 1) + [0.0]
        set_drop_path(student, rates, "student")
        aux = options["aux_mim"]
        painter = None
        if aux["weight"] > 0:
            if not isinstance(student, VisionTransformer) or input == "raw":
                raise UserError("method.aux_mim needs method.input=masked and a plain ViT student")
            painter = Painter(student, aux["decoder"], aux["norm_pixels"])
        trained = TrainedTinyMIM(
            student,
            chosen,
            teacher.width,
            mask_ratio if input == "masked" else None,
            student_color_jitter,
            painter,
            aux["weight"],
        )
        super().__init__(trained, teacher)
        self.target = chosen
        self.mask_ratio = trained.mask_ratio
        if teacher_drop_path > 0:
            set_drop_path(teacher, [teacher_drop_path] * teacher.depth, "teacher")
            teacher.train()

    def targets(self, batch: Batch) -> Tensor:
        teacher = cast("Backbone", self.teacher)
        images = teacher.normalization(pixels_for(teacher, batch.unit_pixels()))
        noise = drop_path_noise(teacher, batch.seeds, Stream.TEACHER_DROP_PATH)
        mask = shared_mask(self.backbone, batch, self.mask_ratio)
        tap = self.target.teacher_tap
        return teacher.tap(
            images,
            [tap],
            visible=None if mask is None else mask.visible,
            drop_path_noise=noise,
        )[tap]


def _check_heads(num_heads: int, student_width: int, teacher_width: int) -> None:
    for side, width in (("student", student_width), ("teacher", teacher_width)):
        if width % num_heads:
            fitting = [n for n in range(1, 65) if student_width % n == 0 == teacher_width % n]
            raise UserError(
                f"the {side}'s width {width} cannot be split into {num_heads} relation heads; "
                f"set method.relation.heads to one of {', '.join(map(str, fitting))}"
            )


def _check_fit(student: Backbone, teacher: Backbone, target: Target, masked: bool) -> None:
    for side, model, tap in (
        ("student", student, target.student_tap),
        ("teacher", teacher, target.teacher_tap),
    ):
        if tap.kind not in model.taps:
            raise UserError(
                f"the {side} has no {tap.kind!r} tap; it offers {', '.join(sorted(model.taps))}"
            )
        if masked and not isinstance(model, VisionTransformer):
            raise UserError(f"method.input=masked needs a plain ViT, and the {side} is none")
        if target.kind == "class_token" and not model.num_prefix_tokens:
            raise UserError(f"method.target=class_token, but the {side} has no class token")
    if target.kind == "class_token":
        return
    ours, theirs = student.num_prefix_tokens, teacher.num_prefix_tokens
    counts = _num_tokens(student, target.student_tap), _num_tokens(teacher, target.teacher_tap)
    if counts[0] == counts[1]:
        return
    if counts[0] - counts[1] == ours - theirs:
        raise UserError(
            f"the student leads with {ours} class or register tokens and the teacher with "
            f"{theirs}, but tokens are compared one by one; take a teacher with {ours}"
            + ("" if theirs else ", or set student.class_token=false")
        )
    raise UserError(
        f"the student has {counts[0]} tokens and the teacher {counts[1]}: choose "
        "student.patch_size and data.image_size so that both grids are equal"
    )


def _num_tokens(model: Backbone, tap: Tap) -> int:
    """Tokens of `tap`; what stands behind an adapter has to be asked, with a blank picture."""
    if isinstance(model, VisionTransformer):
        return model.num_prefix_tokens + model.num_patches
    was_training = model.training
    blank = torch.zeros(1, 3, *model.image_size, device=next(model.parameters()).device)
    with torch.no_grad():
        tokens = model.eval().tap(blank, [tap])[tap]
    model.train(was_training)
    return tokens.shape[1]


def build_tinymim(given: Ingredients) -> TinyMIM:
    """TinyMIM from a configuration.

    Raises:
        UserError: if there is no teacher, or the two do not fit together.
    """
    return TinyMIM(
        given.student,
        given.teacher("tinymim"),
        teacher_block=given.teacher_block,
        teacher_drop_path=given.teacher_drop_path,
        student_drop_path=0.1 if given.student_drop_path is None else given.student_drop_path,
        **given.options,
    )
