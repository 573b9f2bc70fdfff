"""KDEP (He et al., arXiv 2203.05180; specs/kdep): match the student's pooled penultimate feature to
the teacher's, brought to the student's width by a fixed map: SVD and power temperature scaling."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses import feature
from vistill.losses.distances import at_least_fp32, mse
from vistill.methods.base import Fitting, Ingredients, Method, TrainedModule
from vistill.methods.sides import set_drop_path
from vistill.models.backbone import Backbone, Tap, TapKind
from vistill.targets.calibration import Calibration
from vistill.targets.channels import (
    interpolate,
    pad,
    project,
    random_channels,
    strongest_channels,
)
from vistill.targets.moments import Moments, std_ratio
from vistill.targets.scaling import linear_std, power_temperature, rescale
from vistill.views.color_jitter import color_jitter
from vistill.views.lighting import lighting

Align = Literal["svd", "channel_var", "channel_random", "interpolate", "conv1x1", "identity"]
Transform = Literal["pts", "sn", "sm_rank", "sm_linear", "none"]
Activation = Literal["before", "after"]
Loss = Literal["mse", "normalized", "exponential", "softmax", "sign_aligned", "angle", "relational"]

OFFICIAL_STD = 1.3975
"""Channel std of the published scale normalisation: 500 / sqrt(128000 - 1)."""
_DISTANCES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "normalized": feature.normalized_mse,
    "exponential": feature.exponential_mse,
    "softmax": feature.softmax_squared,
    "sign_aligned": feature.sign_aligned_mse,
    "angle": feature.angle,
    "relational": feature.relational,
}


def pooled_feature(
    model: Backbone, images: Float[Tensor, "b 3 h w"], activation: Activation
) -> Float[Tensor, "b d"]:
    """A CNN's pooled last map before or after its last activation, another model's own pooling."""
    kind: TapKind = "pooled" if activation == "before" else "pooled_act"
    if kind not in model.taps:
        return model.pooled(images)
    tap = Tap(kind, model.depth)
    return model.tap(images, [tap])[tap]


def conv1x1(student_width: int, teacher_width: int) -> nn.Sequential:
    """The parametric baseline: linear layer and batch norm on the student's feature."""
    linear = nn.Linear(student_width, teacher_width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(teacher_width))


class FixedMap(nn.Module):
    """From the teacher's feature to the target: align, transform, widen. Nothing in it learns.

    Args:
        align, transform, interpolation, temperature, n, target_std, ratio, wider, channel_seed: see
            `KDEP`.
        teacher_width: channels D of the teacher's feature.
        width: channels of the target.
    """

    mean: Tensor | None
    basis: Tensor | None
    index: Tensor | None
    std: Tensor | None
    wanted: Tensor | None

    def __init__(
        self,
        align: Align,
        transform: Transform,
        teacher_width: int,
        width: int,
        *,
        interpolation: Literal["nearest", "linear"],
        temperature: float,
        n: float,
        target_std: float,
        ratio: float | None,
        wider: Literal["refuse", "pad", "interpolate"],
        channel_seed: int,
    ) -> None:
        super().__init__()
        self.align, self.transform, self.wider = align, transform, wider
        self.teacher_width, self.width = teacher_width, width
        self.interpolation = interpolation
        self.temperature, self.n = temperature, n
        self.target_std, self.ratio = target_std, ratio
        # Not persistent: they have a file of their own, and would swell every checkpoint.
        for name in ("mean", "basis", "index", "std", "wanted"):
            self.register_buffer(name, None, persistent=False)
        if align == "channel_random":
            self.index = random_channels(teacher_width, min(width, teacher_width), channel_seed)

    @property
    def fitted(self) -> bool:
        """Whether the pass over the training pictures has come, where one is needed."""
        needed = {"svd": self.basis, "channel_var": self.index}
        return self.align not in needed or needed[self.align] is not None

    def fit(self, calibration: Calibration) -> None:
        """Take the directions or channels that the pass has found.

        Raises:
            UserError: there are too few of them for the student.
        """
        available = calibration.rank if self.align == "svd" else self.teacher_width
        k = min(self.width, available)
        if k < self.width:
            check_width(self.width, available, self.wider, f"rank {available}")
        if self.align == "channel_var":
            self.index = strongest_channels(calibration.std, k)
            return
        sigma, std = calibration.singular_values[:k], calibration.direction_std[:k]
        self.mean, self.basis = calibration.mean.float(), calibration.basis[:, :k].float()
        self.std = std.float()
        if self.transform == "sn":
            self.wanted = torch.full_like(self.std, self.target_std)
        elif self.transform == "sm_rank":
            self.wanted = calibration.std.sort(descending=True).values[:k].float()
        elif self.transform == "sm_linear":
            ratio, dead = std_ratio(calibration.std)
            if self.ratio is None and dead:
                raise UserError(
                    f"{len(dead)} of the teacher's {self.teacher_width} channels never vary, so "
                    "their std ratio is infinite; set method.std_ratio (published: 2.98)"
                )
            self.wanted = linear_std(sigma, self.ratio or ratio).float()

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        features = at_least_fp32(features)
        # Autocast would round products, and the roots of small values amplify that.
        with torch.autocast(features.device.type, enabled=False):
            aligned = self.aligned(features)
            if self.transform == "pts":
                aligned = power_temperature(aligned, self.temperature, self.n)
            elif self.std is not None and self.wanted is not None:
                aligned = rescale(aligned, self.std, self.wanted)
            if aligned.shape[1] == self.width:
                return aligned
            return (pad if self.wider == "pad" else interpolate)(aligned, self.width)

    def aligned(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """The aligned feature, before any transform."""
        if self.mean is not None and self.basis is not None:
            return project(features, self.mean, self.basis)
        if self.index is not None:
            return features[:, self.index]
        if self.align == "interpolate":
            return interpolate(features, self.width, self.interpolation)
        return features


def check_width(width: int, available: int, wider: str, why: str) -> None:
    """Raise a UserError if `width` channels are wanted of fewer, unless `wider` allows it."""
    if width > available and wider == "refuse":
        raise UserError(
            f"the student's feature has {width} channels and the teacher's only {why}, so no "
            f"target of {width} channels exists; set method.wider=pad or interpolate, "
            "method.align=interpolate or conv1x1, or take a narrower student"
        )


class TrainedKDEP(TrainedModule):
    """Student and, for the parametric baseline, its 1×1 convolution."""

    def __init__(
        self,
        student: Backbone,
        aligner: nn.Module,
        activation: Activation,
        loss: Loss,
        weight: float,
    ) -> None:
        super().__init__()
        self.student, self.aligner = student, aligner
        self.activation: Activation = activation
        self.distance, self.weight = _DISTANCES[loss], weight

    def forward(self, batch: Batch, targets: Float[Tensor, "b k"]) -> Losses:
        images = self.student.normalization(batch.unit_pixels())
        found = self.aligner(pooled_feature(self.student, images, self.activation))
        loss = self.distance(found, targets)
        return Losses(self.weight * loss, {"feature": loss.detach()})


class KDEP(Method):
    """Match pooled penultimate features without labels and without a learned aligner.

    Args:
        student: the model to be trained; its raw feature enters the loss.
        teacher: any frozen model.
        align: how the teacher's channels become the student's: `svd` (centred projection onto the
            leading singular directions), `channel_var`, `channel_random`, `interpolate`,
            `identity`; or `conv1x1`, which learns a map of the student's feature instead.
        transform: of the aligned target: `pts`, `sn`, `sm_rank`, `sm_linear`, `none`; None: `pts`,
            with `conv1x1` none.
        temperature, n: T and n of power temperature scaling.
        target_std: channel std after `sn`.
        std_ratio: largest over smallest std after `sm_linear`; None: the teacher's own.
        interpolation: of `interpolate`.
        channel_seed: of `channel_random`.
        wider: when the student is wider than the teacher's rank: `refuse`, fill up with zeros
            (`pad`), or stretch the target (`interpolate`).
        activation: whether CNNs are read `before` or `after` their last activation; None: before,
            with `conv1x1` after.
        loss, weight: distance and its factor.
        fit_view: pictures of the fitting pass as in training (`train`) or as in tests (`eval`).
        color_jitter: brightness, contrast and saturation strength of the view, the same for both.
        lighting_std: of the colour noise.
        student_drop_path: constant rate of the student's blocks.

    Raises:
        UserError: if teacher and student do not fit together.
    """

    trained: TrainedKDEP

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        align: Align = "svd",
        transform: Transform | None = None,
        temperature: float = 0.1,
        n: float = 3.0,
        target_std: float = OFFICIAL_STD,
        std_ratio: float | None = None,
        interpolation: Literal["nearest", "linear"] = "nearest",
        channel_seed: int = 0,
        wider: Literal["refuse", "pad", "interpolate"] = "refuse",
        activation: Activation | None = None,
        loss: Loss = "mse",
        weight: float = 3.0,
        fit_view: Literal["train", "eval"] = "train",
        color_jitter: tuple[float, float, float] | None = (0.1, 0.1, 0.1),
        lighting_std: float = 0.05,
        student_drop_path: float = 0.0,
    ) -> None:
        learned = align == "conv1x1"
        if align in ("svd", "channel_var", "channel_random"):
            check_width(student.width, teacher.width, wider, f"{teacher.width}")
        if align == "identity" and student.width != teacher.width:
            raise UserError(
                f"method.align=identity needs equal widths, but the student's feature has "
                f"{student.width} channels and the teacher's {teacher.width}; use svd"
            )
        set_drop_path(student, [student_drop_path] * max(1, student.depth), "student")
        read: Activation = activation or ("after" if learned else "before")
        aligner = conv1x1(student.width, teacher.width) if learned else nn.Identity()
        super().__init__(TrainedKDEP(student, aligner, read, loss, weight), teacher)
        self.map = FixedMap(
            align,
            transform or ("none" if learned else "pts"),
            teacher.width,
            teacher.width if learned else student.width,
            interpolation=interpolation,
            temperature=temperature,
            n=n,
            target_std=target_std,
            ratio=std_ratio,
            wider=wider,
            channel_seed=channel_seed,
        )
        self.activation: Activation = read
        self.fit_view: Literal["train", "eval"] = fit_view
        self.color_jitter, self.lighting_std = color_jitter, lighting_std

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        """The picture that both sides see."""
        if not augment:
            return batch
        pixels = batch.unit_pixels()
        if self.color_jitter is not None:
            pixels = color_jitter(pixels, batch.view_seeds, self.color_jitter)
        if self.lighting_std > 0:
            pixels = lighting(pixels, batch.view_seeds, self.lighting_std)
        return replace(batch, pixels=pixels.clamp(0, 1))

    def targets(self, batch: Batch) -> Float[Tensor, "b k"]:
        if not self.map.fitted:
            raise RuntimeError("the teacher's features have to be seen once before the first step")
        return self.map(self.observed(batch))

    def observation(self) -> dict[str, Any]:
        return {
            "signal": "pooled",
            "activation": self.activation,
            "color_jitter": self.color_jitter,
            "lighting_std": self.lighting_std,
        }

    @torch.no_grad()
    def teacher_output(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The teacher's pooled feature of a view."""
        teacher, pixels = self.teacher, batch.unit_pixels()
        assert teacher is not None
        if tuple(pixels.shape[-2:]) != tuple(teacher.image_size):
            pixels = F.interpolate(pixels, size=teacher.image_size, mode="bilinear", antialias=True)
        return pooled_feature(teacher, teacher.normalization(pixels), self.activation)

    def fitting(self, pictures: int) -> Fitting | None:
        if self.map.fitted:
            return None
        if self.map.align == "svd":
            rank = min(self.map.teacher_width, pictures - 1)
            why = f"rank {rank} on {pictures} pictures"
            check_width(self.map.width, rank, self.map.wider, why)
        return FeatureMoments(self)

    def install(self, fitted: Mapping[str, Tensor]) -> str:
        calibration = Calibration(**fitted)
        self.map.fit(calibration)
        k = min(self.map.width, calibration.rank)
        before, _ = std_ratio(calibration.std)
        text = f"{int(calibration.count)} pictures, channel std ratio {before:.3g}"
        if self.map.align == "svd":
            after, _ = std_ratio(calibration.direction_std[:k])
            share = calibration.energy(k)
            text += f"; {k} directions hold {share:.1%} of the variance, std ratio {after:.3g}"
        return text


class FeatureMoments:
    """Mean and scatter of the teacher's feature over the training pictures."""

    def __init__(self, method: KDEP) -> None:
        self._method = method
        assert method.teacher is not None
        self._moments = Moments(method.teacher.width)
        self.view = method.fit_view

    @property
    def count(self) -> int:
        """Pictures seen."""
        return self._moments.count

    def add(self, batch: Batch) -> None:
        """See a batch."""
        view = self._method.view(batch, augment=self.view == "train")
        self._moments.add(self._method.observed(view))

    def state(self) -> dict[str, Tensor]:
        """What was seen so far."""
        return self._moments.state()

    def merge(self, state: dict[str, Tensor]) -> None:
        """Count in what a pass before a pause, or another rank, has seen."""
        self._moments.merge(state)

    def result(self) -> dict[str, Tensor]:
        """What `KDEP.install` takes."""
        return Calibration.of(self._moments).state()


def build_kdep(given: Ingredients) -> KDEP:
    """KDEP from a configuration.

    Raises:
        UserError: if there is no teacher, or the two do not fit together.
    """
    teacher = given.teacher("kdep")
    if given.teacher_block is not None:
        raise UserError("kdep reads the teacher's pooled feature; teacher.block is for tinymim")
    if given.teacher_drop_path:
        raise UserError("kdep's teacher runs as in tests; teacher.drop_path is for tinymim")
    rate = given.student_drop_path or 0.0
    return KDEP(given.student, teacher, student_drop_path=rate, **given.options)
