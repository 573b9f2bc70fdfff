"""What more epochs would bring: a power law through the evaluations so far, and how sure it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 6
"""Evaluations before anything is said: the law has three unknowns and its scatter a fourth."""
_DRAWS = 4000
_EXPONENTS = np.geomspace(0.05, 4.0, 60)
_WARM = 0.2
"""Share of the evaluations, the first ones, that the law leaves out: warm-up is no power law."""

Curve = Sequence[tuple[int, float]]
"""(epoch, value) of every evaluation."""
Curves = Mapping[str, Curve]
"""By the key under which the values are logged: `knn`, `NAME/held_out_loss`."""


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of an evaluation at a later epoch.

    Attributes:
        epoch: after which it takes place.
        value: median of what is expected.
        low, high: 95 % of what may come lie between, the scatter of an evaluation included.
        gain, gain_high: by how much the law itself rises (a loss: falls) until then: the median,
            and what it stays below with 97.5 %.
        scatter: of one evaluation around the law, one standard deviation.
    """

    epoch: int
    value: float
    low: float
    high: float
    gain: float
    gain_high: float
    scatter: float

    @property
    def flat(self) -> bool:
        """Whether all that may be gained would not show in one evaluation."""
        return self.gain_high < self.scatter

    def sentence(self, key: str) -> str:
        """What is to be expected of the metric that is logged as `key`."""
        expected = f"{key} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
        better = f"better by {self.gain:.2g}, at most {self.gain_high:.2g}"
        return f"epoch {self.epoch} would bring {expected}, {better}"


def outlooks(curves: Curves, then: int) -> dict[str, Outlook]:
    """What epoch `then` would bring, for every curve that is long enough."""
    found = {
        key: outlook(curve, then, falls=key.endswith("held_out_loss"))
        for key, curve in curves.items()
    }
    return {key: ahead for key, ahead in found.items() if ahead is not None}


def next_end(epoch: int, epochs: int) -> int:
    """The epoch to look at from another one: the last of the run; from there, as far again."""
    return epochs if epoch < epochs else 2 * epochs


def in_short(coming: Mapping[str, Outlook]) -> str:
    """For the end of a line; empty where nothing is known."""
    return ", ".join(
        f"{key} → {ahead.value:.3g} [{ahead.low:.3g}, {ahead.high:.3g}] at epoch {ahead.epoch}"
        for key, ahead in coming.items()
    )


def outlook(curve: Curve, epoch: int, *, falls: bool, seed: int = 0) -> Outlook | None:
    """Extrapolate `a + b·e^-c` to an epoch `e`; None where there is too little to go by.

    With a flat prior on `a`, `b` (per rise over the epochs seen), the logarithm of the scatter and
    that of `c` between 0.05 and 4, values at a later epoch are Student's t for every `c`, mixed by
    how well each fits; quantiles are those of 4,000 draws.

    Args:
        curve: evaluations, the last of which is now.
        epoch: a later one.
        falls: whether a lower value is the better one, as of a loss.
        seed: of the draws.
    """
    used = [point for point in curve if math.isfinite(point[1])]
    used = used[math.floor(_WARM * len(used)) :]
    if len(used) < LEAST:
        return None
    epochs, values = (np.array(column, dtype=float) for column in zip(*used, strict=True))
    count = len(values)
    generator = np.random.default_rng(seed)

    # One column of the design for each exponent: 0 now, 1 at the first epoch used.
    powers = epochs[None] ** -_EXPONENTS[:, None]
    reach = powers[:, :1] - powers[:, -1:]
    columns = (powers - powers[:, -1:]) / reach
    later = (float(epoch) ** -_EXPONENTS - powers[:, -1]) / reach[:, 0]

    middle = columns.mean(axis=1)
    spread = ((columns - middle[:, None]) ** 2).sum(axis=1)
    slope = ((columns - middle[:, None]) * (values - values.mean())).sum(axis=1) / spread
    left = values - values.mean() - slope[:, None] * (columns - middle[:, None])
    # Figures have so many digits: a perfect fit is one to rounding.
    error = (left**2).sum(axis=1) + count * (1e-7 * max(1e-12, np.abs(values).max())) ** 2

    freedom = count - 3
    weight = -0.5 * np.log(spread) - 0.5 * (count - 2) * np.log(error)
    weight = np.exp(weight - weight.max())
    drawn = generator.choice(len(_EXPONENTS), _DRAWS, p=weight / weight.sum())

    # Scatter, slope and level of each draw, from what is left of its exponent.
    scatter = np.sqrt(error[drawn] / generator.chisquare(freedom, _DRAWS))
    slopes = slope[drawn] + scatter / np.sqrt(spread[drawn]) * generator.standard_normal(_DRAWS)
    levels = values.mean() + scatter / math.sqrt(count) * generator.standard_normal(_DRAWS)
    ahead = levels + slopes * (later[drawn] - middle[drawn])
    seen = ahead + scatter * generator.standard_normal(_DRAWS)
    gains = slopes * later[drawn] * (-1 if falls else 1)
    low, value, high = np.quantile(seen, [0.025, 0.5, 0.975])
    gain, gain_high = np.quantile(gains, [0.5, 0.975])
    figures = (value, low, high, gain, gain_high, np.median(scatter))
    return Outlook(epoch, *(float(x) for x in figures))
