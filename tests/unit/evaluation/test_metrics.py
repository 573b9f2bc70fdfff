import math

import pytest
import torch

from vistill.evaluation.metrics import (
    Score,
    mean_per_class,
    score,
    seeds_needed,
    summarize,
    t_interval,
    top_k_hits,
)
from vistill.evaluation.metrics import wilson_interval as wilson
from vistill.runs.results import EvaluateResult, few_seeds


def test_top_k_counts_ranks():
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert [top_k_hits(scores, labels, k) for k in (1, 2, 3)] == [1, 2, 3]


def test_ties_go_to_the_lower_class_so_constant_scores_are_at_chance():
    labels = torch.arange(4).repeat(5)
    assert top_k_hits(torch.zeros(20, 4), labels, 1) == 5


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_scores_that_are_not_finite_never_hit(value):
    scores = torch.full((3, 4), value)
    assert top_k_hits(scores, torch.zeros(3, dtype=torch.long), 4) == 0


def test_wilson_matches_published_values():
    # Newcombe 1998, table I: 81/263 and 0/20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_t_interval_matches_a_textbook_case():
    mean, low, high = t_interval([0.70, 0.72, 0.74])
    assert mean == pytest.approx(0.72)
    assert high - mean == pytest.approx(4.3027 * 0.02 / math.sqrt(3), abs=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_t_interval_beyond_the_table_is_continuous():
    few, many = [0.0, 1.0] * 10 + [0.5], [0.0, 1.0] * 11
    widths = [(t_interval(v)[2] - t_interval(v)[0]) * math.sqrt(len(v)) for v in (few, many)]
    assert widths[0] / widths[1] == pytest.approx(1.0, abs=0.03)


def make(seed: int, top1: float, protocol: str = "knn") -> Score:
    return Score(protocol, 1.0, 100, seed, top1, None, top1 - 0.1, top1 + 0.1, 50, 1.0)


def test_summary_uses_wilson_for_one_seed_and_t_for_several():
    one, several = summarize([make(0, 0.5), make(0, 0.6, "linear"), make(1, 0.7, "linear")])
    assert (one.interval, one.low, one.high) == ("wilson", 0.4, 0.6)
    assert several.interval == "t"
    assert several.top1 == pytest.approx(0.65)
    assert several.seeds == (0, 1)
    assert several.low < 0.6
    assert several.high > 0.7


def test_top5_needs_more_than_five_classes():
    labels = torch.zeros(4, dtype=torch.long)
    facts = {"protocol": "knn", "budget": 1.0, "labels_used": 4, "seed": 0, "seconds": 0.0}
    assert score(torch.rand(4, 5), labels, **facts).top5 is None
    assert score(torch.zeros(4, 6), labels, **facts).top5 == 1.0


def test_an_interval_over_seeds_stays_a_share():
    (one,) = summarize([make(0, 0.95), make(1, 0.75)])
    assert (one.low, one.high) == (0.0, 1.0)


def test_few_seeds_say_how_many_would_do():
    # Half-widths t(n - 1) s / sqrt(n) by the table: s = 0.1414 of 0.95 and 0.75.
    assert seeds_needed([0.95, 0.75], 0.10) == 11  # 2.2281 * 0.1414 / sqrt(11) = 0.0950
    assert seeds_needed([0.95, 0.75], 0.05) == 34
    assert seeds_needed([0.81, 0.80, 0.82], 0.05) is None
    assert seeds_needed([0.8, 0.8], 0.05) == 3  # equal by chance
    (few,) = summarize([make(0, 0.95), make(1, 0.75)])
    assert (few.low, few.high) == (0.0, 1.0)
    assert few.seeds_needed is not None
    assert few.seeds_needed > 5
    assert "2 seeds say little; about" in few_seeds(few)
    (one,) = summarize([make(0, 0.5)])
    assert one.seeds_needed is None
    (many,) = summarize([make(seed, 0.7 + 0.01 * (seed % 3)) for seed in range(5)])
    assert many.seeds_needed is None


def test_the_mean_per_class_knows_only_classes_with_test_pictures():
    """Of class 0 three of four are right, of class 2 one of one; class 1 has no picture."""
    scores = torch.eye(3)[[0, 0, 0, 1, 2]]
    labels = torch.tensor([0, 0, 0, 0, 2])
    assert mean_per_class(scores, labels) == pytest.approx((0.75 + 1.0) / 2)
    found = score(scores, labels, protocol="knn", budget=1.0, labels_used=9, seed=0, seconds=0.0,
                  untested=("b",))  # fmt: skip
    assert (found.top1, found.mean_per_class) == (0.8, 0.875)
    (one,) = summarize([found])
    assert one.mean_per_class == 0.875
    text = str(EvaluateResult({}, "x", (found,), (one,)))
    assert "knn, 100 %: mean per class 87.5 %" in text
    assert "1 class has no test picture and no part in the mean per class: b" in text
