"""Student's paired test and Holm's correction, against tables and by hand."""

import math

import pytest

from vistill.evaluation.paired import differences, two_sided


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(12.7062, 1, 0.05), (4.3027, 2, 0.05), (3.1824, 3, 0.05), (2.7764, 4, 0.05),
     (2.0860, 20, 0.05), (9.9248, 2, 0.01), (5.8409, 3, 0.01), (0.0, 5, 1.0)],
)  # fmt: skip
def test_tails_are_those_of_the_table(t: float, freedom: int, p: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(p, rel=1e-3)
    assert two_sided(-t, freedom) == two_sided(t, freedom)


def test_pairs_are_of_the_same_seeds_and_corrected_for_their_number() -> None:
    """Way b is a by ten points with little noise; c has all of a's noise."""
    scores = {
        "a": {0: 0.40, 1: 0.50, 2: 0.60},
        "b": {0: 0.50, 1: 0.601, 2: 0.699},
        "c": {0: 0.45, 1: 0.44, 2: 0.64, 7: 0.9},
        "alone": {9: 0.1},
    }
    found = differences(scores, 1e-4)
    assert len(found) == 3  # nothing is paired with a single seed
    first = found[0]
    assert (first.better, first.worse) == ("b", "a")
    apart = [0.10, 0.101, 0.099]
    t = (sum(apart) / 3) / (0.001 / math.sqrt(3))
    assert first.p == pytest.approx(3 * two_sided(t, 2))
    assert first.mean == pytest.approx(0.1)
    assert first.low == pytest.approx(0.1 - 4.3027 * 0.001 / math.sqrt(3))
    assert first.real
    assert not found[2].real
    assert [one.p for one in found] == sorted(one.p for one in found)
    assert all(one.mean >= 0 for one in found)


def test_differences_that_are_all_the_same_spread_by_one_picture() -> None:
    scores = {"a": {0: 0.50, 1: 0.60}, "b": {0: 0.52, 1: 0.62}}
    (one,) = differences(scores, 0.02)
    assert one.p == pytest.approx(two_sided(0.02 / (0.02 / math.sqrt(2)), 1))
    assert not one.real
