import pytest
import torch

from vistill.config.evaluation import LinearProbeConfig
from vistill.evaluation import linear_probe as module
from vistill.evaluation.linear_probe import ProbeHead, linear_probe


def clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in 16 dimensions whose features are neither centred nor scaled."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % 3
    return 40 + 5 * (centres[labels] + 0.5 * torch.randn(n, 16, generator=generator)), labels


def accuracy(scores, labels) -> float:
    return float((scores.argmax(1) == labels).float().mean())


@pytest.mark.slow
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


def test_the_rate_is_judged_by_pictures_that_it_was_not_trained_on(monkeypatch):
    """The higher rate learns its pictures by heart and knows no others; the lower one is right on
    three of four of any. Features are their own number, whose third is the class."""
    features, labels = torch.arange(60.0)[:, None], torch.arange(60) % 3
    trained = []

    def train(some, some_labels, num_classes, options, rate, seed):
        assert torch.equal(labels[some[:, 0].long()], some_labels)
        seen = set(some[:, 0].tolist())
        trained.append((rate, len(seen)))

        def head(asked):
            by_heart = [x in seen for x in asked[:, 0].tolist()]
            right = torch.tensor(by_heart) if rate > 1 else asked[:, 0].long() % 4 > 0
            classes = asked[:, 0].long() % 3 + (~right).long()
            return torch.nn.functional.one_hot(classes % 3, 3).float()

        return head

    monkeypatch.setattr(module, "_train", train)
    options = LinearProbeConfig(base_lrs=(30.0, 0.1))
    linear_probe(features, labels, features, 3, options=options)
    assert trained == [(0.1, 48), (30.0, 48), (0.1, 60)]


def test_the_smaller_of_equal_rates_is_taken(monkeypatch):
    rates = []

    def train(some, some_labels, num_classes, options, rate, seed):
        rates.append(rate)
        return lambda asked: torch.zeros(len(asked), 3)

    monkeypatch.setattr(module, "_train", train)
    (train_features, labels), (test, _) = clusters(30, 0), clusters(3, 1)
    linear_probe(train_features, labels, test, 3, options=LinearProbeConfig(base_lrs=(9.0, 0.1)))
    assert rates == [0.1, 9.0, 0.1]


def test_a_large_batch_has_a_larger_rate(monkeypatch):
    """Linearly above 256 pictures, as published; the base rate below."""
    asked = []
    usual = module.learning_rate

    def rate(epoch, **told):
        asked.append(told["lr"])
        return usual(epoch, **told)

    monkeypatch.setattr(module, "learning_rate", rate)
    features, labels = clusters(600, 0)
    for size, expected in ((512, 0.2), (64, 0.1)):
        options = LinearProbeConfig(batch_size=size, base_lrs=(0.1,), epochs=1, min_steps=1)
        linear_probe(features, labels, features[:3], 3, options=options)
        assert set(asked) == {expected}
        asked.clear()
