"""What is said of epochs to come holds as often as it says."""

import math

import numpy as np
import pytest

from vistill.training.outlook import LEAST, in_short, next_end, outlook, outlooks


def law(a, b, c, scatter, generator, epochs):
    return [(e, a + b * e**-c + scatter * generator.standard_normal()) for e in epochs]


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_interval_holds_as_often_as_it_says(sign):
    generator = np.random.default_rng(3)
    hits, trials = 0, 200
    for _ in range(trials):
        c, scatter = generator.uniform(0.2, 1.5), generator.uniform(0.2, 1.5)
        b, count = sign * generator.uniform(10, 60), int(generator.integers(9, 30))
        then = int(count * generator.uniform(1.2, 3))
        *seen, (_, truth) = law(60, b, c, scatter, generator, [*range(1, count + 1), then])
        ahead = outlook(seen, then, falls=sign > 0)
        hits += ahead.low <= truth <= ahead.high
    assert 0.90 <= hits / trials <= 0.995


def test_it_follows_a_law_without_scatter():
    ahead = outlook([(e, 70 - 30 * e**-0.7) for e in range(1, 20)], 40, falls=False)
    assert ahead.value == pytest.approx(70 - 30 * 40**-0.7, abs=0.1)
    assert ahead.gain == pytest.approx(30 * (19**-0.7 - 40**-0.7), abs=0.1)
    assert not ahead.flat


def test_a_gain_is_a_fall_of_a_loss():
    curve = [(e, 0.2 + e**-0.5) for e in range(1, 20)]
    assert outlook(curve, 40, falls=True).gain == pytest.approx(0.071, abs=0.01)
    assert outlook(curve, 40, falls=False).gain < 0


def test_what_only_scatters_is_flat():
    generator = np.random.default_rng(0)
    assert outlook(law(70, 0, 1, 0.5, generator, range(1, 25)), 40, falls=False).flat


def test_few_points_say_nothing_and_broken_ones_do_not_count():
    curve = [(e, 1 - 1 / e) for e in range(1, 40)]
    few = next(n for n in range(1, 40) if outlook(curve[:n], 50, falls=False) is not None)
    assert LEAST <= few <= 2 * LEAST
    broken = [*curve[:8], (9, math.nan), (10, math.inf)]
    assert outlook(broken, 50, falls=False) == outlook(curve[:8], 50, falls=False)


def test_it_looks_to_the_end_and_from_there_as_far_again():
    curves = {"knn": [(e, 60 - 30 / e) for e in range(1, 13)], "a/held_out_loss": [(1, 0.5)]}
    assert (next_end(12, 20), next_end(12, 12)) == (20, 24)
    after = outlooks(curves, 24)
    assert after.keys() == {"knn"}
    assert after["knn"].epoch == 24
    assert in_short(after).startswith("knn → 58.")
    assert in_short({}) == ""
