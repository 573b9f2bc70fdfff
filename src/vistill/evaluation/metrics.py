"""Top-k accuracy and honest intervals: Wilson's for one test set, Student's across seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_Z95 = 1.959963984540054
_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 to 20 degrees of freedom."""
LEAST_SEEDS = 3
"""Of two, the half-width is 6.4 times their distance, which is a matter of chance."""
_MOST_SEEDS = 1000
_FEW_POINTS = 0.05


@dataclass(frozen=True)
class Tried:
    """A fine-tuning's setting, and its accuracy on training pictures that were held out from it.

    Attributes:
        lr: learning rate; for a batch of 256 where the options say `base_lr`.
        weight_decay: of the optimiser.
        validation_top1: accuracy in [0, 1].
    """

    lr: float
    weight_decay: float
    validation_top1: float


@dataclass(frozen=True)
class Score:
    """Result of one protocol, label budget and seed.

    Attributes:
        protocol: `knn`, `linear` or `finetune`.
        budget: as asked for, a share or `N/class`.
        labels_used: labelled pictures learned from.
        seed: drew the labels, the head and the order.
        top1, top5: accuracy in [0, 1]; top5 is None with five classes or fewer.
        low, high: 95 % Wilson interval of top1.
        n_test: pictures tested.
        seconds: wall-clock time, without feature extraction that protocols share.
        broken: names of unreadable test pictures, which were left out.
        best_top1: best of several tests during training, thus chosen on test pictures; or None.
        setting: learning rate and weight decay that were chosen among several; or None.
        tried: all of those.
        mean_per_class: mean over the classes of their accuracies; those without a test picture are
            left out.
        untested: names of these.
        among: of a trained classifier, how many of its classes were compared, and how many it has;
            None: all.
    """

    protocol: str
    budget: float | str
    labels_used: int
    seed: int
    top1: float
    top5: float | None
    low: float
    high: float
    n_test: int
    seconds: float
    broken: tuple[str, ...] = ()
    best_top1: float | None = None
    setting: Tried | None = None
    tried: tuple[Tried, ...] = ()
    mean_per_class: float | None = None
    untested: tuple[str, ...] = ()
    among: tuple[int, int] | None = None


@dataclass(frozen=True)
class Summary:
    """The scores of one protocol and budget over all seeds.

    `interval` says what `low` and `high` are: with one seed Wilson's interval of the test set, with
    several Student's interval of the mean over seeds (which knows nothing of the test set's size).
    `seeds_needed` is how many seeds would make that interval as narrow as Wilson's of the test set,
    or 5 points to either side where that is wider; None where it is.
    """

    protocol: str
    budget: float | str
    labels_used: int
    seeds: tuple[int, ...]
    top1: float
    top5: float | None
    low: float
    high: float
    interval: Literal["wilson", "t"]
    n_test: int
    best_top1: float | None = None
    seeds_needed: int | None = None
    mean_per_class: float | None = None


def top_k_hits(scores: Float[Tensor, "n c"], labels: Int[Tensor, " n"], k: int) -> int:
    """How many samples have their label among the k highest scores.

    Ties go to the lower class; a class whose score is not finite is never a hit.
    """
    return int(among_highest(scores, labels, k).sum())


def mean_per_class(scores: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """Mean over the classes among `labels` of the share of their samples that are hits."""
    hits = among_highest(scores, labels, 1).double()
    shares = [hits[labels == label].mean() for label in labels.unique()]
    return float(torch.stack(shares).mean())


def among_highest(
    scores: Float[Tensor, "n c"], labels: Int[Tensor, " n"], k: int
) -> Bool[Tensor, " n"]:
    """Which samples have their label among the k highest scores, as `top_k_hits` counts them."""
    own = scores.gather(1, labels[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return (before.sum(dim=1) < k) & own[:, 0].isfinite()


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); it stays inside [0, 1] and works for 0 and n."""
    share = hits / n
    spread = _Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == n else high)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of at least two values and its 95 % interval by Student's t distribution."""
    mean = fmean(values)
    half = _quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _quantile(freedom: int) -> float:
    """97.5 % of Student's t distribution; beyond the table 1.96 + 2.5/ν is within 0.001 of it."""
    return _T95[freedom - 1] if freedom <= len(_T95) else _Z95 + 2.5 / freedom


def seeds_needed(values: Sequence[float], half: float) -> int | None:
    """How many seeds would give Student's interval that half-width, were they to spread as these.

    None where the interval is as narrow already. A spread of zero, as of two equal values, says
    nothing: fewer than `LEAST_SEEDS` values need as many.
    """
    spread, n = stdev(values), max(len(values), LEAST_SEEDS)
    while _quantile(n - 1) * spread / math.sqrt(n) > half and n < _MOST_SEEDS:
        n += 1
    return n if n > len(values) else None


def score(
    scores: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    *,
    protocol: str,
    budget: float | str,
    labels_used: int,
    seed: int,
    seconds: float,
    broken: tuple[str, ...] = (),
    best_top1: float | None = None,
    tried: tuple[Tried, ...] = (),
    untested: tuple[str, ...] = (),
    among: tuple[int, int] | None = None,
) -> Score:
    """Turn class scores of the test pictures into a `Score`."""
    n = len(labels)
    hits = top_k_hits(scores, labels, 1)
    low, high = wilson_interval(hits, n)
    return Score(
        protocol=protocol,
        budget=budget,
        labels_used=labels_used,
        seed=seed,
        top1=hits / n,
        top5=top_k_hits(scores, labels, 5) / n if scores.shape[1] > 5 else None,
        low=low,
        high=high,
        n_test=n,
        seconds=seconds,
        broken=broken,
        best_top1=best_top1,
        setting=max(tried, key=lambda one: one.validation_top1, default=None),
        tried=tried,
        mean_per_class=mean_per_class(scores, labels),
        untested=untested,
        among=among,
    )


def summarize(scores: Sequence[Score]) -> list[Summary]:
    """One `Summary` per protocol and budget, in the order of first appearance."""
    groups: dict[tuple[str, float | str], list[Score]] = {}
    for one in scores:
        groups.setdefault((one.protocol, one.budget), []).append(one)
    summaries = []
    for (protocol, budget), group in groups.items():
        first = group[0]
        mean, low, high = first.top1, first.low, first.high
        needed = None
        if len(group) > 1:
            mean, low, high = t_interval([one.top1 for one in group])
            low, high = max(0.0, low), min(1.0, high)
            wilson = wilson_interval(round(mean * first.n_test), first.n_test)
            half = max(_FEW_POINTS, (wilson[1] - wilson[0]) / 2)
            needed = seeds_needed([one.top1 for one in group], half)
        best = [one.best_top1 for one in group if one.best_top1 is not None]
        top5 = [one.top5 for one in group if one.top5 is not None]
        classes = [one.mean_per_class for one in group if one.mean_per_class is not None]
        summaries.append(
            Summary(
                protocol=protocol,
                budget=budget,
                labels_used=first.labels_used,
                seeds=tuple(one.seed for one in group),
                top1=mean,
                top5=fmean(top5) if top5 else None,
                low=low,
                high=high,
                interval="t" if len(group) > 1 else "wilson",
                n_test=first.n_test,
                best_top1=fmean(best) if best else None,
                seeds_needed=needed,
                mean_per_class=fmean(classes) if classes else None,
            )
        )
    return summaries
