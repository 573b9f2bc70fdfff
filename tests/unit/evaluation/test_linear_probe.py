import pytest
import torch

from vistill.config.evaluation import LinearProbeConfig
from vistill.evaluation.linear_probe import ProbeHead, linear_probe


def clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in 16 dimensions whose features are neither centred nor scaled."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % 3
    return 40 + 5 * (centres[labels] + 0.5 * torch.randn(n, 16, generator=generator)), labels


def accuracy(scores, labels) -> float:
    return float((scores.argmax(1) == labels).float().mean())


def test_default_learns_on_little_data():
    (train, labels), (test, wanted) = clusters(60, 0), clusters(300, 1)
    assert accuracy(linear_probe(train, labels, test, 3), wanted) > 0.95


def test_rate_is_chosen_on_the_training_part():
    (train, labels), (test, wanted) = clusters(60, 0), clusters(300, 1)
    useless = LinearProbeConfig(base_lrs=(1e-6,), min_steps=50, epochs=1)
    both = LinearProbeConfig(base_lrs=(1e-6, 30.0), min_steps=50, epochs=1)
    assert accuracy(linear_probe(train, labels, test, 3, options=useless), wanted) < 0.8
    assert accuracy(linear_probe(train, labels, test, 3, options=both), wanted) > 0.9


def test_test_features_do_not_influence_each_other():
    (train, labels), (test, _) = clusters(30, 0), clusters(8, 1)
    options = LinearProbeConfig(min_steps=20, epochs=1)
    together = linear_probe(train, labels, test, 3, options=options)
    alone = linear_probe(train, labels, test[:1], 3, options=options)
    torch.testing.assert_close(alone, together[:1])


def test_one_example_per_class():
    train, labels = clusters(3, 0)
    test, wanted = clusters(300, 1)
    assert accuracy(linear_probe(train, labels, test, 3), wanted) > 0.6


def test_several_steps_per_epoch_and_seeds():
    (train, labels), (test, _) = clusters(50, 0), clusters(8, 1)
    options = LinearProbeConfig(batch_size=16, epochs=2, min_steps=0, base_lrs=(10.0,))
    first, again, other = (
        linear_probe(train, labels, test, 3, options=options, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_head_is_initialised_as_published():
    head = ProbeHead(400, 100, seed=0)
    assert head.linear.weight.detach().std() == pytest.approx(0.01, rel=0.05)
    assert head.norm.eps == 1e-6
    assert head.norm.weight is None
