"""Splits, seeds and orders are pure, disjoint and well mixed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vistill.random import epoch_order, replacement, sample_seeds, split_held_out

seeds = st.integers(0, 2**63 - 1)


@given(st.integers(1, 500), st.floats(0, 0.99), seeds)
def test_split_is_a_partition(n: int, share: float, seed: int) -> None:
    train, held = split_held_out(n, share, seed)
    assert sorted([*train, *held]) == list(range(n))
    assert len(train) >= 1
    if share == 0 or n == 1:
        assert len(held) == 0
    else:
        assert 1 <= len(held) <= max(1, round(n * share))
    again = split_held_out(n, share, seed)
    assert np.array_equal(again[0], train)
    assert np.array_equal(again[1], held)


def test_split_depends_on_the_seed() -> None:
    assert not np.array_equal(split_held_out(100, 0.1, 0)[1], split_held_out(100, 0.1, 1)[1])


def test_seeds_differ_everywhere() -> None:
    samples = np.arange(1000)
    found = np.stack([sample_seeds(s, e, samples) for s in range(4) for e in range(4)])
    assert found.dtype == np.int64
    assert len(np.unique(found)) == found.size
    bits = (found.reshape(-1, 1) >> np.arange(64)) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02


def test_seed_of_a_sample_ignores_its_neighbours() -> None:
    assert sample_seeds(3, 1, np.array([7, 8]))[1] == sample_seeds(3, 1, np.array([8]))[0]


@given(st.integers(1, 300), seeds, st.integers(0, 1000))
def test_epochs_are_permutations(n: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(n, seed, epoch)) == list(range(n))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 1000))
def test_replacements_vary_with_the_attempt(seed: int, n: int) -> None:
    tries = [replacement(seed, attempt, n) for attempt in range(1, 33)]
    assert all(0 <= t < n for t in tries)
    assert len(set(tries)) > min(n, 32) // 3
