"""Masks partition the patches and refuse to hide everything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vistill.tokens.masks import (
    nested_mask,
    picture_visible,
    random_mask,
    tube_visible,
)


@given(st.integers(2, 60), st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_visible_and_hidden_partition_the_patches(length, ratio, seed):
    keep = int(length * (1 - ratio))
    noise = torch.rand(3, length, generator=torch.Generator().manual_seed(seed))
    if keep < 1:
        with pytest.raises(ValueError, match="none of"):
            random_mask(noise, ratio)
        return
    mask = random_mask(noise, ratio)
    assert mask.visible.shape == (3, keep)
    assert mask.hidden.shape == (3, length - keep)
    order = torch.cat([mask.visible, mask.hidden], dim=1)
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(3, -1))
    assert torch.equal(noise.gather(1, order), noise.sort(dim=1).values)


@given(
    st.integers(2, 40), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31)
)
def test_nested_masks(positions, slots, first, second, seed):
    visible, seen = sorted(1 + int(share * (positions - 1)) for share in (first, second))
    noise = torch.rand(3, positions, generator=torch.Generator().manual_seed(seed))
    mask = nested_mask(noise, visible, seen, slots)
    assert [s.shape[1] // slots for s in mask] == [visible, seen - visible, positions - visible]
    everything = set(range(slots * positions))
    for row in range(3):
        visible_set, extra, hidden = (set(part[row].tolist()) for part in mask)
        assert not visible_set & extra
        assert extra <= hidden
        assert visible_set | hidden == everything
        assert not visible_set & hidden
        # A tube: the same positions in every slot.
        for part in (visible_set, extra):
            assert {i + positions for i in part if i < positions * (slots - 1)} == {
                i for i in part if i >= positions
            }
    for part in mask:
        assert torch.equal(part, part.sort(dim=1).values)
    assert torch.equal(mask.seen.sort(dim=1).values, nested_mask(noise, seen, slots=slots).visible)


@given(st.integers(2, 60), st.floats(0.0, 0.9), st.integers(0, 2**31))
def test_one_noise_gives_both_kinds_of_masks(length, ratio, seed):
    keep = picture_visible(length, ratio)
    if keep < 1:
        return
    noise = torch.rand(2, length, generator=torch.Generator().manual_seed(seed))
    mask = nested_mask(noise, keep)
    assert torch.equal(mask.visible, random_mask(noise, ratio).visible.sort(dim=1).values)
    assert mask.extra.shape == (2, 0)


def test_published_counts():
    assert (tube_visible(196, 0.9), tube_visible(196, 0.75), tube_visible(100, 0.57)) == (
        20,
        49,
        44,
    )
    assert (picture_visible(196, 0.75), picture_visible(196, 0.5)) == (49, 98)


@pytest.mark.parametrize(("visible", "seen"), [(0, 3), (4, 3), (2, 9)])
def test_masks_that_do_not_nest(visible, seen):
    with pytest.raises(ValueError, match="cannot nest"):
        nested_mask(torch.rand(1, 8), visible, seen)
