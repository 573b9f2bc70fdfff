"""Feature distillation (Wei et al., arXiv 2205.14141; spec fd 1-6): a student regresses the
whitened output features of any frozen teacher, for the same view of the picture, unmasked."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vistill.heads.projector import feature_projector
from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses.distances import cosine, l1, mse, smooth_l1, softmax_kl
from vistill.methods.base import Ingredients, Method, TrainedModule
from vistill.methods.side import drop_path_noise, pixels_for, rising, set_drop_path
from vistill.models.backbone import Backbone, Tap
from vistill.models.vit import VisionTransformer
from vistill.targets.whitening import WHITENINGS, Whitening
from vistill.views.noise import Stream

TargetKind = Literal["map", "patches", "class_token", "pooled", "logits"]
Distance = Literal["smooth_l1", "mse", "l1", "cosine"]


def output_tap(model: Backbone, after_norm: bool, side: str) -> Tap:
    """The last feature map of a model, after its own final norm or in front of it.

    Raises:
        UserError: if the model does not offer that signal.
    """
    tap = Tap("norm" if after_norm else "block", model.depth)
    if "map" in model.taps:
        tap = Tap("map_act" if after_norm else "map", model.depth)
    if tap.kind not in model.taps:
        raise UserError(
            f"the {side} has no {tap.kind!r} tap, as method.after_norm={str(after_norm).lower()} "
            f"asks; it offers {', '.join(sorted(model.taps))}"
        )
    return tap


def as_tokens(features: Tensor) -> Float[Tensor, "b n d"]:
    """Tokens as they are, and a feature map `[B, D, H, W]` row by row."""
    return features.flatten(2).mT if features.dim() == 4 else features


def select(
    tokens: Float[Tensor, "b n d"], kind: TargetKind, num_prefix: int, kept_prefix: int
) -> Float[Tensor, "b *n d"]:
    """The part of a feature map that is compared.

    Args:
        tokens: prefix tokens, then patches.
        kind: all tokens, patches, the class token, or the mean of the patches.
        num_prefix: prefix tokens of this model.
        kept_prefix: how many of them, from the first, belong to the whole map.
    """
    patches = tokens[:, num_prefix:]
    if kind == "class_token":
        return tokens[:, 0]
    if kind in ("pooled", "logits"):
        return patches.mean(dim=1)
    if kind == "patches" or kept_prefix == 0:
        return patches
    return torch.cat([tokens[:, :kept_prefix], patches], dim=1)


def resize_map(
    tokens: Float[Tensor, "b n d"], num_prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "b m d"]:
    """Bicubic resize of the patches of a feature map; prefix tokens stay."""
    prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
    image = patches.mT.unflatten(2, old)
    resized = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat([prefix, resized.flatten(2).mT], dim=1)


class TrainedFeatureDistillation(TrainedModule):
    """Student and projector."""

    def __init__(
        self,
        student: Backbone,
        tap: Tap,
        kind: TargetKind,
        projector: nn.Module,
        distance: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.student = student
        self.tap = tap
        self.kind: TargetKind = kind
        self.projector = projector
        self.distance = distance

    def forward(self, batch: Batch, targets: Tensor) -> Losses:
        images = self.student.normalization(batch.unit_pixels())
        noise = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        return self.compare(images, targets, noise)

    def predict(
        self,
        images: Float[Tensor, "b 3 h w"],
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Float[Tensor, "b *n d"]:
        """What the student says about the target, for its own normalised images."""
        found = self.student.tap(images, [self.tap], drop_path_noise=drop_path_noise)
        prefix = self.student.num_prefix_tokens
        return self.projector(select(as_tokens(found[self.tap]), self.kind, prefix, prefix))

    def compare(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Float[Tensor, "b *n d"],
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Losses:
        """The loss of normalised student images against the whitened target."""
        loss = self.distance(self.predict(images, drop_path_noise), targets)
        return Losses(loss, {"logits" if self.kind == "logits" else "feature": loss.detach()})


class FeatureDistillation(Method):
    """Regress the whitened output features of a teacher.

    Args:
        student: the model to be trained.
        teacher: any frozen model with a final map of tokens or a feature map.
        target: all tokens (`map`), `patches`, `class_token`, mean of the patches (`pooled`), or
            class scores of the teacher (`logits`).
        after_norm: whether the teacher's own final norm comes first.
        whitening: per `token` (layer norm without affine), per `channel`, `l2`, or `none`.
        loss: distance to the target; for `logits` it is always KL.
        beta: where smooth L1 turns from square to line.
        temperature: of both sides' scores, for `logits`.
        projector: `linear` (a 1×1 convolution), `mlp`, or `identity` at equal widths.
        resize_map: resize the teacher's map to the student's grid where they differ.
        antialias: when pictures are resized to the teacher's own size.
        student_drop_path: rate of the last block, rising linearly from 0 in the first.
        teacher_drop_path: the same for the teacher, which has none by default.

    Raises:
        UserError: if teacher and student do not fit together.
    """

    trained: TrainedFeatureDistillation

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        target: TargetKind = "map",
        after_norm: bool = True,
        whitening: Whitening = "token",
        loss: Distance = "smooth_l1",
        beta: float = 2.0,
        temperature: float = 1.0,
        projector: Literal["linear", "mlp", "identity"] = "linear",
        resize_map: bool = False,
        antialias: bool = True,
        student_drop_path: float = 0.0,
        teacher_drop_path: float = 0.0,
    ) -> None:
        if target == "logits":
            teacher_tap = Tap("logits", teacher.depth)
            if "logits" not in teacher.taps:
                raise UserError(
                    "method.target=logits needs a teacher with its classifier; "
                    "write ,classifier=keep behind its name"
                )
        else:
            teacher_tap = output_tap(teacher, after_norm, "teacher")
        tap = output_tap(student, True, "student")
        ours, theirs = _shape(student, tap), _shape(teacher, teacher_tap)
        self.resized = None
        if target != "logits":
            self.resized = _check_fit(student, teacher, target, ours, theirs, resize_map)
        if projector == "identity" and student.width != theirs.width:
            raise UserError(
                f"method.projector=identity needs equal widths, but the student has "
                f"{student.width} and the teacher {theirs.width}; use linear"
            )
        distances: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
            "smooth_l1": partial(smooth_l1, beta=beta),
            "mse": mse,
            "l1": l1,
            "cosine": cosine,
        }
        distance = distances[loss]
        if target == "logits":
            distance = partial(softmax_kl, temperature=temperature)
        set_drop_path(student, rising(student_drop_path, student.depth), "student")
        head = feature_projector(projector, student.width, theirs.width)
        super().__init__(TrainedFeatureDistillation(student, tap, target, head, distance), teacher)
        self.teacher_tap = teacher_tap
        self.kind: TargetKind = target
        self.whitening = WHITENINGS[whitening]
        self.antialias = antialias
        if teacher_drop_path > 0:
            set_drop_path(teacher, rising(teacher_drop_path, teacher.depth), "teacher")
            teacher.train()

    def targets(self, batch: Batch) -> Tensor:
        return self.target_of(self.observed(batch))

    def observation(self) -> dict[str, Any]:
        teacher = cast("Backbone", self.teacher)
        if teacher.training:
            raise UserError(
                "the teacher's drop path is random, so its outputs cannot be cached; "
                "set teacher.drop_path=0 or leave the cache out"
            )
        whole = self.kind in ("map", "patches")
        return {
            "signal": self.teacher_tap.kind,
            "part": "map" if whole else self.kind,
            "antialias": self.antialias,
        }

    def teacher_output(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        teacher = cast("Backbone", self.teacher)
        pixels = pixels_for(teacher, batch.unit_pixels(), antialias=self.antialias)
        noise = drop_path_noise(teacher, batch.seeds, Stream.TEACHER_DROP_PATH)
        return self._output(teacher.normalization(pixels), noise)

    def teach(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b *n d"]:
        """The target for images as the teacher expects them."""
        return self.target_of(self._output(images))

    def target_of(self, observed: Float[Tensor, "b *n d"]) -> Float[Tensor, "b *n d"]:
        """The target from what `teacher_output` found."""
        if self.kind == "logits":
            return observed
        if self.kind in ("map", "patches"):
            prefix = cast("Backbone", self.teacher).num_prefix_tokens
            if self.resized is not None:
                observed = resize_map(observed, prefix, *self.resized)
            kept = self.backbone.num_prefix_tokens
            observed = select(observed, self.kind, prefix, kept)
        return self.whitening(observed)

    def _output(
        self,
        images: Float[Tensor, "b 3 h w"],
        drop_path_noise: Float[Tensor, "rows b"] | None = None,
    ) -> Float[Tensor, "b *n d"]:
        """The teacher's whole map, or the part of it that is compared."""
        teacher = cast("Backbone", self.teacher)
        found = teacher.tap(images, [self.teacher_tap], drop_path_noise=drop_path_noise)
        features = found[self.teacher_tap]
        if self.kind == "logits":
            return features
        tokens, prefix = as_tokens(features), teacher.num_prefix_tokens
        whole = self.kind in ("map", "patches")
        return tokens if whole else select(tokens, self.kind, prefix, prefix)


class _Shape(NamedTuple):
    """What a tap gives: patches in rows and columns, and channels."""

    grid: tuple[int, int]
    width: int


def _shape(model: Backbone, tap: Tap) -> _Shape:
    if isinstance(model, VisionTransformer) and tap.kind != "logits":
        return _Shape(model.grid, model.width)
    was_training = model.training
    blank = torch.zeros(1, 3, *model.image_size, device=next(model.parameters()).device)
    with torch.no_grad():
        found = model.eval().tap(blank, [tap])[tap]
    model.train(was_training)
    if found.dim() == 4:
        return _Shape((found.shape[2], found.shape[3]), found.shape[1])
    if found.dim() == 2:
        return _Shape((1, 1), found.shape[1])
    patches = found.shape[1] - model.num_prefix_tokens
    side = round(patches**0.5)
    return _Shape((side, side) if side * side == patches else (1, patches), found.shape[2])


def _check_fit(
    student: Backbone,
    teacher: Backbone,
    target: TargetKind,
    ours: _Shape,
    theirs: _Shape,
    resize: bool,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The teacher's grid and the student's, where the map has to be resized."""
    if target == "class_token":
        for side, model in (("student", student), ("teacher", teacher)):
            if not model.num_prefix_tokens:
                raise UserError(f"method.target=class_token, but the {side} has no class token")
    if target == "map" and student.num_prefix_tokens > teacher.num_prefix_tokens:
        raise UserError(
            f"the student leads with {student.num_prefix_tokens} class or register tokens and the "
            f"teacher with {teacher.num_prefix_tokens}; set method.target=patches or "
            "student.class_token=false"
        )
    if target in ("class_token", "pooled") or ours.grid == theirs.grid:
        return None
    if not resize:
        raise UserError(
            f"the student's map is {ours.grid[0]}x{ours.grid[1]} and the teacher's "
            f"{theirs.grid[0]}x{theirs.grid[1]}: choose student.patch_size and data.image_size or "
            "teacher.image_size so that both are equal, or set method.resize_map=true"
        )
    return theirs.grid, ours.grid


def build_feature_distillation(given: Ingredients) -> FeatureDistillation:
    """Feature distillation from a configuration.

    Raises:
        UserError: if there is no teacher, or the two do not fit together.
    """
    if given.teacher_block is not None:
        raise UserError(
            "feature_distillation reads the teacher's last map; teacher.block is for tinymim"
        )
    return FeatureDistillation(
        given.student,
        given.teacher("feature_distillation"),
        student_drop_path=given.student_drop_path or 0.0,
        teacher_drop_path=given.teacher_drop_path,
        **given.options,
    )
