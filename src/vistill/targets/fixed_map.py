"""The fixed map from a teacher's feature to a student's target: align, transform, widen
(KDEP; spec kdep 6, 7). Nothing in it learns."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.losses.distances import at_least_fp32
from vistill.targets.calibration import Calibration
from vistill.targets.channels import interpolate, pad, project, random_channels, strongest_channels
from vistill.targets.moments import std_ratio
from vistill.targets.scaling import linear_std, power_temperature, rescale

Align = Literal["svd", "channel_var", "channel_random", "interpolate", "conv1x1", "identity"]
Transform = Literal["pts", "sn", "sm_rank", "sm_linear", "none"]
Wider = Literal["refuse", "pad", "interpolate"]
Columns = Literal["top", "second", "last", "random"]

OFFICIAL_STD = 1.3975
"""Channel std of the published scale normalisation: 500 / sqrt(128000 - 1)."""


class FixedMap(nn.Module):
    """From the teacher's feature to the target: align, transform, widen. Nothing in it learns.

    Args:
        align: `svd` (centred projection onto singular directions), `channel_var`,
            `channel_random`, `interpolate`; `identity` and `conv1x1` leave the channels alone.
        transform: of the aligned feature: `pts`, `sn`, `sm_rank`, `sm_linear`, `none`.
        teacher_width: channels D of the teacher's feature.
        width: channels of the target.
        interpolation: of `interpolate`.
        temperature, n: T and n of power temperature scaling.
        target_std: channel std after `sn`.
        ratio: largest over smallest std after `sm_linear`; None: the teacher's own.
        wider: what becomes of a student wider than the teacher's rank.
        channel_seed: of `channel_random` and of random columns.
        columns: which singular directions: the `top` ones, those behind them (`second`), the
            `last` with any variance, or `random` ones among those.
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
        interpolation: Literal["nearest", "linear"] = "nearest",
        temperature: float = 0.1,
        n: float = 3.0,
        target_std: float = OFFICIAL_STD,
        ratio: float | None = None,
        wider: Wider = "refuse",
        channel_seed: int = 0,
        columns: Columns = "top",
    ) -> None:
        super().__init__()
        self.align, self.transform, self.wider = align, transform, wider
        self.teacher_width, self.width = teacher_width, width
        self.interpolation = interpolation
        self.temperature, self.n = temperature, n
        self.target_std, self.ratio = target_std, ratio
        self.columns, self.seed = columns, channel_seed
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
        chosen = self._directions(k, available)
        sigma, std = calibration.singular_values[chosen], calibration.direction_std[chosen]
        self.mean, self.basis = calibration.mean.float(), calibration.basis[:, chosen].float()
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

    def _directions(self, k: int, rank: int) -> Int[Tensor, " k"]:
        """Which singular directions are taken, of those with any variance."""
        if self.columns == "random":
            return random_channels(rank, k, self.seed).sort().values
        if self.columns == "second" and 2 * k > rank:
            raise UserError(
                f"method.columns=second takes directions {k + 1} to {2 * k}, but the teacher's "
                f"feature has only rank {rank}"
            )
        start = {"top": 0, "second": k, "last": rank - k}[self.columns]
        return torch.arange(start, start + k)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        if not self.fitted:
            raise RuntimeError("the teacher's features have to be seen once before the first step")
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


def check_width(width: int, available: int, wider: Wider, why: str, what: str = "feature") -> None:
    """Raise a UserError if `width` channels are wanted of fewer, unless `wider` allows it."""
    if width > available and wider == "refuse":
        raise UserError(
            f"the student's {what} has {width} channels and the teacher's only {why}, so no "
            f"target of {width} channels exists; set method.wider=pad or interpolate, "
            "method.align=interpolate or conv1x1, or take a narrower student"
        )
