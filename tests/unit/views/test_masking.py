"""Masks partition the patches and refuse to hide everything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vistill.views.masking import random_mask


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
    assert torch.all(mask.hidden.gather(1, mask.visible) == 0)
    assert torch.all(mask.hidden.sum(1) == length - keep)
    # Restoring (visible, hidden) order gives every patch its own place back.
    order = torch.argsort(mask.restore, dim=1)
    assert torch.equal(order[:, :keep], mask.visible)
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(3, -1))
