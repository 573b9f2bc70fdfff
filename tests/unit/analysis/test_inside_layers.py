"""Spectra, CKA and agreement against plain arithmetic, in any number of parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistill.analysis.attention import AttentionStatistics, Places, by_offset
from vistill.analysis.layers import agreement, by_class, cka, spectrum
from vistill.targets.moments import Moments


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(0, 9))
def test_a_spectrum_is_that_of_all_tokens(batches: int, channels: int, seed: int) -> None:
    tokens = drawn(batches * 2, 9, channels, seed=seed) * torch.arange(1, channels + 1)
    seen = Moments(channels)
    for part in tokens.chunk(batches):
        seen.add(part.flatten(0, 1))
    figures, flat = spectrum(seen), tokens.flatten(0, 1).double()
    values = torch.linalg.eigvalsh(flat.T.cov(correction=0))
    shares = values / values.sum()
    assert figures.effective_rank == pytest.approx(float((-shares * shares.log()).sum().exp()))
    assert figures.std == pytest.approx(float(flat.std(dim=0, correction=0).mean()))
    assert figures.channels == channels


def test_cka_knows_rotations_and_strangers() -> None:
    ours, other = drawn(40, 6), drawn(40, 6, seed=1)
    turned = ours @ torch.linalg.qr(drawn(6, 6, seed=2)).Q * 3 + 5
    found = cka([ours, turned, other])
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64))
    assert found[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert abs(float(found[0, 2])) < 0.2  # unbiased: about nothing
    with pytest.raises(ValueError, match="four pictures"):
        cka([ours[:3]])


def test_agreement_finds_the_picture_that_is_placed_otherwise() -> None:
    ours = drawn(30, 8)
    theirs = ours @ torch.linalg.qr(drawn(8, 8, seed=3)).Q
    theirs[7] = drawn(8, seed=4)
    found = agreement(ours, theirs)
    assert int(found.argmin()) == 7
    assert float(found.sort().values[1]) > float(found[7]) + 0.3
    labels = torch.arange(30) % 3
    rows = by_class(found, labels, ["a", "b", "c"])
    assert rows[0][0] == "b"  # of the odd one
    assert sum(count for *_, count in rows) == 30
    assert by_class(found, torch.full((30,), -1), []) == []


def test_space_and_time_are_told_apart() -> None:
    """A head that looks one slot ahead goes no pixel, one that looks aside goes no slot."""
    places = Places(3, (2, 2), (8.0, 16.0), 0)
    maps = torch.zeros(1, 2, 12, 12)
    for query in range(12):
        maps[0, 0, query, (query + 4) % 12] = 1  # the same place of the next slot
        maps[0, 1, query, query ^ 1] = 1  # the column beside
    seen = AttentionStatistics(places)
    seen.add(maps)
    figures = seen.figures()
    torch.testing.assert_close(figures.distance, torch.tensor([0.0, 16.0]).double())
    torch.testing.assert_close(figures.duration, torch.tensor([4 / 3, 0.0]).double())
    assert figures.alike == 0
    one = by_offset(figures.average, places)
    assert one.shape == (12, 12)
    assert figures.identity == 0


def test_uniform_attention_is_as_far_as_the_mean_of_all_pairs() -> None:
    """14 x 14 patches of 16 pixels: 116.49 (spec fd 7.1)."""
    seen = AttentionStatistics(Places(1, (14, 14), (16.0, 16.0), 1))
    seen.add(torch.full((1, 1, 197, 197), 1 / 197))
    assert float(seen.figures().distance) == pytest.approx(116.49, abs=0.005)
