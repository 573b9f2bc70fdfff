"""Streaming statistics of features: any batches, pauses and ranks give the same directions."""

import pytest
import torch

from vistill.targets.calibration import Calibration
from vistill.targets.moments import Moments, std_ratio


def features(n: int = 50, width: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(2, -1, width, dtype=dtype)
    return torch.randn(n, width, generator=generator, dtype=dtype) * scales + 100


def seen(batches: list[torch.Tensor]) -> Moments:
    moments = Moments(batches[0].shape[1])
    for batch in batches:
        moments.add(batch)
    return moments


@pytest.mark.parametrize("size", [1, 7, 50])
def test_batches_do_not_matter(size: int) -> None:
    x = features()
    fitted = Calibration.of(seen(list(x.split(size))))
    wide = x.double()
    torch.testing.assert_close(fitted.mean, wide.mean(0))
    torch.testing.assert_close(fitted.std, wide.std(0))
    u, sigma, _ = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    torch.testing.assert_close(fitted.singular_values, sigma, rtol=1e-7, atol=0)
    projected = (wide - fitted.mean) @ fitted.basis
    torch.testing.assert_close(projected.abs(), (u * sigma).abs(), rtol=1e-5, atol=1e-8)
    assert bool((fitted.basis.gather(0, fitted.basis.abs().argmax(0)[None]) > 0).all())


def test_a_pause_changes_no_bit() -> None:
    batches = list(features().split(8))
    whole = seen(batches)
    resumed = Moments(6)
    resumed.merge(seen(batches[:3]).state())
    for batch in batches[3:]:
        resumed.add(batch)
    for name, value in whole.state().items():
        assert torch.equal(value, resumed.state()[name])


def test_ranks_are_merged() -> None:
    x = features()
    whole, first = seen([x]), seen([x[::2]])
    first.merge(seen([x[1::2]]).state())
    first.merge(Moments(6).state())  # a rank without pictures
    assert first.count == 50
    torch.testing.assert_close(first.scatter, whole.scatter)


def test_rank_and_energy() -> None:
    x = features(40, 8)
    x[:, 5] = 2 * x[:, 3] - x[:, 1]
    x[:, 6] = 4.0
    fitted = Calibration.of(seen([x]))
    assert fitted.rank == 6
    assert fitted.energy(6) == pytest.approx(1.0)
    assert fitted.energy(1) < 1
    few = Calibration.of(seen([features(4, 8)]))
    assert (few.rank, few.basis.shape) == (3, (8, 4))
    assert Calibration(**few.state()).rank == 3


def test_std_ratio_names_dead_channels() -> None:
    assert std_ratio(torch.tensor([2.0, 8.0, 4.0])) == (4.0, [])
    assert std_ratio(torch.tensor([2.0, 0.0, 1e-9])) == (float("inf"), [1, 2])
