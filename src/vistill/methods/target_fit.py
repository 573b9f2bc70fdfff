"""What a method learns about its teacher's features before the first step: mean and scatter of each
part of them, from which the singular directions come (KDEP; spec kdep 5)."""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from vistill.batch import Batch
from vistill.targets.calibration import Calibration
from vistill.targets.moments import Moments


class FeatureMoments:
    """Mean and scatter of a teacher's features `[B, D]` over the training pictures.

    Args:
        features: what the teacher says about a batch, without gradients.
        widths: channels of each part of the features, by name and in order; what is left of them is
            not looked at. The part named "" needs no name in the result.
        view: pictures as in training or as in tests.
        centred: whether the directions are those of the centred features.
    """

    def __init__(
        self,
        features: Callable[[Batch], Tensor],
        widths: Mapping[str, int],
        view: Literal["train", "eval"] = "train",
        *,
        centred: bool = True,
    ) -> None:
        self._features, self._widths, self._centred = features, dict(widths), centred
        self._moments = {name: Moments(width) for name, width in widths.items()}
        self.view: Literal["train", "eval"] = view

    @property
    def count(self) -> int:
        """Pictures seen."""
        return next(iter(self._moments.values())).count

    def add(self, batch: Batch) -> None:
        """See a batch."""
        widths = [*self._widths.values()]
        looked_at = self._features(batch)[:, : sum(widths)].split(widths, dim=1)
        for moments, part in zip(self._moments.values(), looked_at, strict=True):
            moments.add(part)

    def state(self) -> dict[str, Tensor]:
        """What was seen so far."""
        return {
            f"{name}{key}": value
            for name, moments in self._moments.items()
            for key, value in moments.state().items()
        }

    def merge(self, state: dict[str, Tensor]) -> None:
        """Count in what a pass before a pause, or another rank, has seen."""
        for name, moments in self._moments.items():
            moments.merge({key: state[f"{name}{key}"] for key in moments.state()})

    def result(self) -> dict[str, Tensor]:
        """A `Calibration` of every part, which `calibration` reads."""
        return {
            f"{name}{key}": value
            for name, moments in self._moments.items()
            for key, value in Calibration.of(moments, centred=self._centred).state().items()
        }


def calibration(fitted: Mapping[str, Tensor], part: str = "") -> Calibration:
    """What the pass has found about one part."""
    names = ("count", "mean", "std", "singular_values", "basis")
    return Calibration(**{name: fitted[f"{part}{name}"] for name in names})
