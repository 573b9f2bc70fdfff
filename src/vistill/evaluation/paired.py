"""Whether two ways differ, by the same seeds of both: Student's paired test, and Holm's correction
for how many pairs are looked at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from vistill.evaluation.metrics import t_interval


@dataclass(frozen=True)
class Difference:
    """One pair of ways.

    Attributes:
        better, worse: their names.
        mean: by how much, in shares of one.
        low, high: 95 % interval of that alone.
        p: chance of such a mean where there is no difference, corrected for the number of pairs.
        seeds: that both have.
    """

    better: str
    worse: str
    mean: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def real(self) -> bool:
        """Whether chance makes it in less than one table of twenty."""
        return self.p < 0.05


def two_sided(t: float, freedom: int) -> float:
    """Probability that |T| is above |t| for Student's T (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, 1.0 - inside)


def differences(
    scores: Mapping[str, Mapping[int, float]], resolution: float
) -> Sequence[Difference]:
    """All pairs of ways that share two seeds or more, the surest first.

    Args:
        scores: share of hits by seed, of each way.
        resolution: of a share, such as one over the number of test pictures; differences that are
            all the same are taken to spread by as much.
    """
    found = []
    names = list(scores)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            seeds = sorted(scores[first].keys() & scores[second].keys())
            if len(seeds) < 2:
                continue
            apart = [scores[first][seed] - scores[second][seed] for seed in seeds]
            pair = (first, second)
            if fmean(apart) < 0:
                apart, pair = [-one for one in apart], (second, first)
            mean, low, high = t_interval(apart)
            spread = max(stdev(apart), resolution) / math.sqrt(len(apart))
            p = two_sided(mean / spread, len(apart) - 1)
            found.append(Difference(*pair, mean, low, high, p, len(apart)))
    found.sort(key=lambda one: one.p)
    least, corrected = 0.0, []
    for i, one in enumerate(found):
        least = max(least, min(1.0, one.p * (len(found) - i)))
        corrected.append(replace(one, p=least))
    return corrected
