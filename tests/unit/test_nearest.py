"""What would do instead of a number that does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistill.nearest import near_divisors, near_multiples, no_split, same_depth


def test_numbers_beside_the_one_that_does_not_fit() -> None:
    assert no_split(192, 5) == "a width of 192 cannot be split into 5 heads; 4 or 6 would do"
    assert (near_divisors(8, 100), near_divisors(7, 2)) == ("8", "1 or 7")
    assert (near_multiples(33, 8), near_multiples(3, 8)) == ("32 or 40", "8")


@pytest.mark.parametrize(
    ("block", "depth", "near"),
    [(18, 12, 9), (24, 12, 12), (24, 2, 2), (13, 12, 6), (30, 24, 22), (50, 12, 12), (3, 2, 1)],
)
def test_a_block_as_deep(block: int, depth: int, near: int) -> None:
    assert same_depth(block, depth) == near


@given(st.integers(1, 300), st.integers(1, 300))
def test_what_is_named_does_fit(width: int, parts: int) -> None:
    if width % parts:
        assert all(width % int(n) == 0 for n in near_divisors(width, parts).split(" or "))
    assert 1 <= same_depth(parts, width) <= width
