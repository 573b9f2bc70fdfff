"""Distances by hand: what is averaged, what is summed, and powers of the temperature."""

import pytest
import torch

from vistill.losses.baselines import logits_kl
from vistill.losses.distances import at_least_fp32, cosine, l1, mse, smooth_l1, softmax_kl
from vistill.losses.feature import relational
from vistill.losses.relation import relation_loss


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("shape", [(4, 6), (3, 5, 6)])
def test_means_over_every_element(shape):
    a, b = pair(*shape)
    error = a - b
    torch.testing.assert_close(mse(a, b), (error**2).sum() / error.numel())
    torch.testing.assert_close(l1(a, b), error.abs().sum() / error.numel())
    for beta in (0.3, 2.0):
        below = error.abs() < beta
        rows = torch.where(below, error**2 / (2 * beta), error.abs() - beta / 2)
        torch.testing.assert_close(smooth_l1(a, b, beta), rows.sum() / error.numel())
    angles = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    torch.testing.assert_close(cosine(a, b), 1 - angles.sum() / angles.numel())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergences_of_heated_softmaxes(temperature):
    ours, theirs = pair(5, 7)
    p, t = ((x / temperature).exp() for x in (ours, theirs))
    p, t = (x / x.sum(1, keepdim=True) for x in (p, t))
    expected = temperature**2 * (t * (t / p).log()).sum() / 5
    torch.testing.assert_close(softmax_kl(ours, theirs, temperature), expected)
    torch.testing.assert_close(logits_kl(ours, theirs, temperature), expected)


def test_only_sure_teachers_count():
    ours, theirs = pair(4, 3)
    theirs[:2] *= 50
    rows = torch.stack([logits_kl(ours[i : i + 1], theirs[i : i + 1], 2.0) for i in range(4)])
    found = logits_kl(ours, theirs, 2.0, entropy_share=0.05)
    torch.testing.assert_close(found, rows[:2].sum() / 4)


def test_relations_between_pictures_weigh_angles_double():
    a, b = pair(5, 4)
    whole = relational(a, b)
    apart = relational(a, b, angles=0.0) + relational(a, b, distance=0.0)
    torch.testing.assert_close(whole, apart)
    torch.testing.assert_close(relational(a, b, 50.0, 0.0), 2 * relational(a, b, angles=0.0))


def test_precision_is_raised_and_never_lowered():
    for given, found in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert at_least_fp32(torch.ones(2, dtype=given)).dtype == found
    a = torch.tensor([[1.0, 1.0 / 256]])
    assert mse(a.bfloat16(), torch.zeros(1, 2).bfloat16()) == pytest.approx((1 + 2**-16) / 2)


@pytest.mark.parametrize("softmax", [True, False])
def test_gradients_of_relations_are_those_of_autograd(softmax):
    """The closed form, so far apart that smooth L1 is straight for some and round for others."""
    a, b = pair(2, 5, 8)
    c, d = (8 * x for x in pair(2, 5, 12, seed=1))
    a, b = (8 * x for x in (a, b))

    def logits(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = (z.unflatten(2, (2, -1)).transpose(1, 2) for z in (x, y))
        return x @ y.mT / x.shape[-1] ** 0.5

    def by_hand(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ours, theirs = logits(x, y), logits(c, d)
        if not softmax:
            return torch.nn.functional.smooth_l1_loss(ours, theirs, beta=2.0)
        p, t = ours.log_softmax(-1), theirs.log_softmax(-1)
        return (t.exp() * (t - p)).sum(-1).mean()

    found = []
    for loss in (by_hand, lambda x, y: relation_loss((x, y), (c, d), 2, softmax=softmax)):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = loss(x, y)
        value.backward()
        found.append((value.detach(), x.grad, y.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
