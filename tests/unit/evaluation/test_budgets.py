import numpy as np
import pytest

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.evaluation.budgets import label_budget, split_first, split_labelled

LABELS = np.array([0] * 200 + [1] * 50 + [2] * 3 + [-1] * 20)


def counts(chosen: np.ndarray) -> list[int]:
    return np.bincount(LABELS[chosen], minlength=3).tolist()


def test_shares_are_stratified_with_at_least_one_per_class():
    assert counts(label_budget(LABELS, 0.01, 0)) == [2, 1, 1]
    assert counts(label_budget(LABELS, 0.1, 0)) == [20, 5, 1]
    assert counts(label_budget(LABELS, 1.0, 0)) == [200, 50, 3]


def test_absolute_budget():
    assert counts(label_budget(LABELS, "3/class", 0)) == [3, 3, 3]
    with pytest.raises(UserError, match=r"4/class.*\(3\)"):
        label_budget(LABELS, "4/class", 0)


def test_budgets_are_seeded_and_nested():
    small, large = label_budget(LABELS, 0.05, 7), label_budget(LABELS, 0.5, 7)
    assert np.array_equal(small, label_budget(LABELS, 0.05, 7))
    assert not np.array_equal(small, label_budget(LABELS, 0.05, 8))
    assert set(small) < set(large)


@pytest.mark.parametrize("budget", [0, 1.5, -0.1, "5", "0/class", "x/class"])
def test_what_is_not_a_budget_is_told(budget):
    with pytest.raises(UserError, match="label budget"):
        label_budget(LABELS, budget, 0)
    with pytest.raises(ValueError, match="label budget"):
        EvaluateConfig(budgets=(budget,))


def test_split_is_stratified_disjoint_and_covers_what_is_labelled():
    train, test = split_labelled(LABELS, 0.2, 3)
    assert not set(train) & set(test)
    assert sorted([*train, *test]) == list(range(253))
    assert counts(test) == [40, 10, 1]


def test_split_of_a_class_with_one_picture_is_refused():
    with pytest.raises(UserError, match="class number 4 has a single"):
        split_labelled(np.array([0, 0, 4]))


def test_the_first_of_every_class_are_trained_on():
    train, test = split_first(np.array([1, 0, 1, 0, -1, 1, 0]), 2)
    assert (train.tolist(), test.tolist()) == ([0, 1, 2, 3], [5, 6])


def test_a_class_of_as_many_as_are_trained_on_has_no_test_picture():
    train, test = split_first(np.array([0, 0, 0, 1, 1, 1, 1, 2]), 3)
    assert (train.tolist(), test.tolist()) == ([0, 1, 2, 3, 4, 5, 7], [6])
    with pytest.raises(UserError, match="leaves no test pictures: no class has more than 3"):
        split_first(np.array([0, 0, 0, 1, 1]), 3)
