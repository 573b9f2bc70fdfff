"""Which labels a protocol may use: stratified, seeded, and nested (1 % lies within 10 %)."""

import numpy as np

from vistill.config.evaluation import check_budget
from vistill.errors import UserError


def _by_class(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Positions of each class in a seeded order that does not depend on the other classes."""
    return [
        np.random.default_rng((seed, int(c))).permutation(np.flatnonzero(labels == c))
        for c in np.unique(labels[labels >= 0])
    ]


def label_budget(labels: np.ndarray, budget: float | str, seed: int) -> np.ndarray:
    """Sorted positions of the labels that may be used.

    Args:
        labels: int64 `[n]`, -1 where unknown; those are never chosen.
        budget: share in (0, 1], rounded within each class but at least one; or `N/class`.
        seed: a smaller budget of the same seed is a subset of a larger one.

    Raises:
        UserError: not a budget, or more per class than a class has.
    """
    try:
        check_budget(budget)
    except ValueError as error:
        raise UserError(str(error)) from None
    groups = _by_class(labels, seed)
    if isinstance(budget, str):
        count = int(budget.partition("/")[0])
        smallest = min(map(len, groups))
        if count > smallest:
            raise UserError(
                f"the budget {budget} asks for more pictures than the smallest class has "
                f"({smallest})"
            )
        chosen = [group[:count] for group in groups]
    else:
        chosen = [group[: max(1, round(budget * len(group)))] for group in groups]
    return np.sort(np.concatenate(chosen))


def budget_text(budget: float | str) -> str:
    """`0.01` → `1 %`, `5/class` as it is."""
    return budget if isinstance(budget, str) else f"{100 * budget:g} %"


def split_labelled(
    labels: np.ndarray, test_share: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions for training and for testing: stratified, disjoint, seeded.

    Every class keeps at least one picture on each side.

    Args:
        labels: int64 `[n]`, -1 where unknown; those are on neither side.
        test_share: share of each class that is tested on.
        seed: of the split.

    Raises:
        UserError: a class has a single picture.
    """
    train, test = [], []
    for group in _by_class(labels, seed):
        if len(group) < 2:
            raise UserError(
                f"class number {labels[group[0]]} has a single labelled picture, so it cannot be "
                "split into training and test pictures; give labelled test pictures"
            )
        count = min(max(1, round(test_share * len(group))), len(group) - 1)
        test.append(group[:count])
        train.append(group[count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def split_first(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions of the first `count` of every class, and of all others (spec kdep 11.1).

    Args:
        labels: int64 `[n]`, -1 where unknown; those are on neither side.
        count: pictures per class to train on, in the order of the source: 60 is the published
            split of Caltech-256.

    A class of no more than `count` is learned from, and has no test picture.

    Raises:
        UserError: no class has more than `count` pictures, so that none is left to test on.
    """
    groups = [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    largest = max(map(len, groups))
    if largest <= count:
        raise UserError(
            f"train_first={count} leaves no test pictures: no class has more than {largest}"
        )
    train, test = ([group[part] for group in groups] for part in (slice(count), slice(count, None)))
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
