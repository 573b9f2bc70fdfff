"""KDEP (He et al., arXiv 2203.05180; spec kdep): match the student's pooled penultimate feature to
the teacher's, brought to the student's width by a fixed map: SVD and power temperature scaling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.losses import feature
from vistill.losses.baselines import logits_kl
from vistill.losses.distances import mse
from vistill.methods.base import Fitting, Ingredients, Method, TrainedModule
from vistill.methods.first_look import FeatureMoments, calibration
from vistill.methods.layers import Activation, layer_widths, read
from vistill.methods.side import set_drop_path
from vistill.models.backbone import Backbone, Tap
from vistill.targets.fixed_map import (
    OFFICIAL_STD,
    Align,
    Columns,
    FixedMap,
    Transform,
    Wider,
    check_width,
)
from vistill.targets.moments import std_ratio
from vistill.views.color_jitter import color_jitter
from vistill.views.lighting import lighting

Loss = Literal["mse", "normalized", "exponential", "softmax", "sign_aligned", "angle", "relational"]

_DISTANCES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "normalized": feature.normalized_mse,
    "exponential": feature.exponential_mse,
    "softmax": feature.softmax_squared,
    "sign_aligned": feature.sign_aligned_mse,
    "angle": feature.angle,
    "relational": feature.relational,
}


def conv1x1(student_width: int, teacher_width: int) -> nn.Sequential:
    """The parametric baseline: linear layer and batch norm on the student's feature."""
    linear = nn.Linear(student_width, teacher_width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(teacher_width))


class Targets(NamedTuple):
    """What the teacher says; None and empty where nothing compares it.

    Attributes:
        feature: for the pooled feature.
        layers: for the student's layers.
        scores: the teacher's class scores.
    """

    feature: Float[Tensor, "b k"] | None
    layers: list[Float[Tensor, "b e"]]
    scores: Float[Tensor, "b c"] | None


class TrainedKDEP(TrainedModule):
    """Student and, for the baselines, a 1×1 convolution or a classifier, which are thrown away.

    Args:
        aligner: of the student's feature.
        activation, loss, weight, logits_weight: see `KDEP`.
        layers: names of the student's.
        layer_weight: factor of the distance of each.
        classifier: None where class scores are not compared.
        logits: their distance.
    """

    def __init__(
        self,
        student: Backbone,
        aligner: nn.Module,
        activation: Activation,
        loss: Loss,
        weight: float,
        *,
        layers: Sequence[str],
        layer_weight: float,
        classifier: nn.Module | None,
        logits: Callable[[Tensor, Tensor], Tensor],
        logits_weight: float,
    ) -> None:
        super().__init__()
        self.student, self.aligner, self.classifier = student, aligner, classifier
        self.activation: Activation = activation
        self.distance, self.logits = _DISTANCES[loss], logits
        self.weight, self.layer_weight, self.logits_weight = weight, layer_weight, logits_weight
        self.layers = tuple(layers)

    def forward(self, batch: Batch, targets: Targets) -> Losses:
        images = self.student.normalization(batch.unit_pixels())
        classify = self.classifier is not None
        found = read(self.student, images, self.activation, self.layers, activated=classify)
        terms: list[tuple[str, float, Tensor]] = []
        if targets.feature is not None:
            loss = self.distance(self.aligner(found.pooled), targets.feature)
            terms.append(("feature", self.weight, loss))
        for i, pair in enumerate(zip(found.layers, targets.layers, strict=True), start=1):
            terms.append((f"stage{i}", self.layer_weight, self.distance(*pair)))
        if self.classifier is not None and targets.scores is not None:
            loss = self.logits(self.classifier(found.activated), targets.scores)
            terms.append(("logits", self.logits_weight, loss))
        total = torch.stack([weight * loss for _, weight, loss in terms]).sum()
        return Losses(total, {name: loss.detach() for name, _, loss in terms})


class KDEP(Method):
    """Match pooled penultimate features without labels and without a learned aligner.

    Args:
        student: the model to be trained; its raw feature enters the loss.
        teacher: any frozen model.
        align: how the teacher's channels become the student's: `svd` (centred projection onto the
            leading singular directions), `channel_var`, `channel_random`, `interpolate`,
            `identity`; or `conv1x1`, which learns a map of the student's feature instead.
        columns: which singular directions: `top`, those behind them (`second`), `last`, `random`.
        centred: subtract the mean feature before the directions are sought and used.
        transform: of the aligned target: `pts`, `sn`, `sm_rank`, `sm_linear`, `none`; None: `pts`,
            with `conv1x1` none.
        temperature, n: T and n of power temperature scaling.
        target_std: channel std after `sn`.
        std_ratio: largest over smallest std after `sm_linear`; None: the teacher's own.
        interpolation: of `interpolate`.
        channel_seed: of `channel_random` and of random `columns`.
        wider: when the student is wider than the teacher's rank: `refuse`, fill up with zeros
            (`pad`), or stretch the target (`interpolate`).
        activation: whether CNNs are read `before` or `after` their last activation; None: before,
            with `conv1x1` after.
        loss, weight: distance and its factor; 0 leaves the feature out.
        stages: pairs of layers, of the student and of the teacher, that are matched as well, each
            by a fixed map of its own; their means over space are compared.
        stage_weight: factor of each pair's distance.
        logits_weight: factor of the class scores' KL, for which the student gets a classifier that
            is thrown away; the teacher needs its own.
        logits_temperature: of both sides' scores.
        logits_entropy: leave out pictures whose teacher's entropy is above this share of the
            largest possible one.
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
        columns: Columns = "top",
        centred: bool = True,
        transform: Transform | None = None,
        temperature: float = 0.1,
        n: float = 3.0,
        target_std: float = OFFICIAL_STD,
        std_ratio: float | None = None,
        interpolation: Literal["nearest", "linear"] = "nearest",
        channel_seed: int = 0,
        wider: Wider = "refuse",
        activation: Activation | None = None,
        loss: Loss = "mse",
        weight: float = 3.0,
        stages: Sequence[tuple[str, str]] = (),
        stage_weight: float = 3.0,
        logits_weight: float = 0.0,
        logits_temperature: float = 4.0,
        logits_entropy: float | None = None,
        fit_view: Literal["train", "eval"] = "train",
        color_jitter: tuple[float, float, float] | None = (0.1, 0.1, 0.1),
        lighting_std: float = 0.05,
        student_drop_path: float = 0.0,
    ) -> None:
        learned = align == "conv1x1"
        if not (weight or stages or logits_weight):
            raise UserError("method.weight=0 needs method.logits_weight or method.stages")
        if learned and stages:
            raise UserError("method.stages are matched by fixed maps; method.align=conv1x1 is none")
        if logits_weight and "logits" not in teacher.taps:
            raise UserError(
                "method.logits_weight needs a teacher with its classifier; "
                "write teacher.model=file:PATH,classifier=keep"
            )
        if weight:
            _check_fit(align, "feature", student.width, teacher.width, wider)
        ours, theirs = [pair[0] for pair in stages], [pair[1] for pair in stages]
        widths = layer_widths(student, ours, "student"), layer_widths(teacher, theirs, "teacher")
        for name, width, other in zip(ours, *widths, strict=True):
            _check_fit(align, f"layer {name}", width, other, wider)
        set_drop_path(student, [student_drop_path] * max(1, student.depth), "student")
        at: Activation = activation or ("after" if learned else "before")
        classes = _number_of_classes(teacher) if logits_weight else 0
        trained = TrainedKDEP(
            student,
            conv1x1(student.width, teacher.width) if learned else nn.Identity(),
            at,
            loss,
            weight,
            layers=ours,
            layer_weight=stage_weight,
            classifier=nn.Linear(student.width, classes) if classes else None,
            logits=partial(logits_kl, temperature=logits_temperature, entropy_share=logits_entropy),
            logits_weight=logits_weight,
        )
        super().__init__(trained, teacher)

        def fixed_map(teacher_width: int, width: int) -> FixedMap:
            return FixedMap(
                align,
                transform or ("none" if learned else "pts"),
                teacher_width,
                width,
                interpolation=interpolation,
                temperature=temperature,
                n=n,
                target_std=target_std,
                ratio=std_ratio,
                wider=wider,
                channel_seed=channel_seed,
                columns=columns,
            )

        self.map = fixed_map(teacher.width, teacher.width if learned else student.width)
        pairs = zip(widths[1], widths[0], strict=True)
        self.stage_maps = nn.ModuleList(fixed_map(*pair) for pair in pairs)
        self.layers = tuple(theirs)
        # Kept here, because training wraps the half that learns.
        self.matches_pooled, self.matches_scores = weight > 0, classes > 0
        self.activation: Activation = at
        self.fit_view: Literal["train", "eval"] = fit_view
        self.centred = centred
        self.color_jitter, self.lighting_std = color_jitter, lighting_std

    @property
    def _maps(self) -> dict[str, FixedMap]:
        """The maps in use, by what leads their names in a file; nothing for the pooled feature."""
        stages = {f"stage{i}.": map_ for i, map_ in enumerate(self._stage_maps, start=1)}
        return ({"": self.map} if self.matches_pooled else {}) | stages

    @property
    def _stage_maps(self) -> list[FixedMap]:
        return cast("list[FixedMap]", list(self.stage_maps))

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

    def targets(self, batch: Batch) -> Targets:
        return self.target_of(self.observed(batch))

    def target_of(self, observed: Float[Tensor, "b d"]) -> Targets:
        """The target from what `teacher_output` found."""
        if not all(map_.fitted for map_ in self._maps.values()):
            raise RuntimeError("the teacher's features have to be seen once before the first step")
        widths = [self.map.teacher_width, *(map_.teacher_width for map_ in self._stage_maps)]
        pooled, *layers = observed[:, : sum(widths)].split(widths, dim=1)
        return Targets(
            self.map(pooled) if self.matches_pooled else None,
            [map_(one) for map_, one in zip(self._stage_maps, layers, strict=True)],
            observed[:, sum(widths) :] if self.matches_scores else None,
        )

    def observation(self) -> dict[str, Any]:
        return {
            "signal": "pooled",
            "activation": self.activation,
            "color_jitter": self.color_jitter,
            "lighting_std": self.lighting_std,
            "layers": list(self.layers),
            "logits": self.matches_scores,
        }

    @torch.no_grad()
    def teacher_output(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The teacher's pooled feature of a view; beside it its layers and class scores, if any."""
        teacher, pixels = self.teacher, batch.unit_pixels()
        assert teacher is not None
        if tuple(pixels.shape[-2:]) != tuple(teacher.image_size):
            pixels = F.interpolate(pixels, size=teacher.image_size, mode="bilinear", antialias=True)
        found = read(
            teacher,
            teacher.normalization(pixels),
            self.activation,
            self.layers,
            scores=self.matches_scores,
        )
        scores = [] if found.scores is None else [found.scores]
        beside = [*found.layers, *scores]
        return torch.cat([found.pooled, *beside], dim=1) if beside else found.pooled

    def fitting(self, pictures: int) -> Fitting | None:
        waiting = {name: map_ for name, map_ in self._maps.items() if not map_.fitted}
        if not waiting:
            return None
        for map_ in waiting.values():
            if map_.align == "svd":
                rank = min(map_.teacher_width, pictures - 1)
                why = f"rank {rank} on {pictures} pictures"
                check_width(map_.width, rank, map_.wider, why)
        widths = {"": self.map.teacher_width} | {
            name: map_.teacher_width for name, map_ in self._maps.items()
        }
        return FeatureMoments(self, widths, self.fit_view, centred=self.centred)

    def install(self, fitted: Mapping[str, Tensor]) -> str:
        told: list[str] = []
        for name, map_ in self._maps.items():
            found = calibration(fitted, name)
            map_.fit(found)
            before, _ = std_ratio(found.std)
            pictures = f"{int(found.count)} pictures" if not told else name.removesuffix(".")
            text = f"{pictures}, channel std ratio {before:.3g}"
            if map_.align == "svd" and map_.columns == "top":
                k = min(map_.width, found.rank)
                after, _ = std_ratio(found.direction_std[:k])
                share = found.energy(k)
                text += f"; {k} directions hold {share:.1%} of the variance, std ratio {after:.3g}"
            told.append(text)
        return "; ".join(told)


def _check_fit(align: Align, what: str, width: int, teacher_width: int, wider: Wider) -> None:
    if align in ("svd", "channel_var", "channel_random"):
        check_width(width, teacher_width, wider, f"{teacher_width}", what)
    if align == "identity" and width != teacher_width:
        raise UserError(
            f"method.align=identity needs equal widths, but the student's {what} has {width} "
            f"channels and the teacher's {teacher_width}; use svd"
        )


@torch.no_grad()
def _number_of_classes(teacher: Backbone) -> int:
    tap = Tap("logits", teacher.depth)
    grey = next(teacher.parameters()).new_zeros(2, 3, *teacher.image_size)
    return teacher.eval().tap(grey, [tap])[tap].shape[1]


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
