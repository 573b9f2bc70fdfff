"""Which samples of a source are learned from and which are tested, and what their classes are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistill.data import Source
from vistill.errors import UserError
from vistill.evaluation.budgets import split_first, split_labelled


@dataclass(frozen=True)
class Labelled:
    """Labelled samples of a source.

    Attributes:
        source: of the samples.
        indices: positions of those with a label.
        classes: label of every position of the source, counted as in the training source.
    """

    source: Source
    indices: np.ndarray
    classes: np.ndarray


def labelled_parts(
    train_source: Source,
    test_source: Source | None,
    test_share: float = 0.2,
    *,
    train_first: int | None = None,
) -> tuple[Labelled, Labelled, int]:
    """Training pictures, test pictures and the number of classes.

    Raises:
        UserError: a source without labels, a single class, or classes that differ.
    """
    train = _labelled(train_source)
    if test_source is None:
        if train_first is None:
            fit, held_out = split_labelled(train.classes, test_share)
        else:
            fit, held_out = split_first(train.classes, train_first)
        test = Labelled(train_source, held_out, train.classes)
        train = Labelled(train_source, fit, train.classes)
    else:
        test = _labelled(test_source, like=train_source)
    number = len(train_source.classes or ())
    if number < 2:
        raise UserError(f"{train_source.name} has a single class; an evaluation needs two")
    return train, test, number


def without_pictures(part: Labelled, names: Sequence[str]) -> tuple[str, ...]:
    """The classes, of such names in their order, that no sample of `part` has."""
    there = set(part.classes[part.indices].tolist())
    return tuple(name for number, name in enumerate(names) if number not in there)


def _labelled(source: Source, like: Source | None = None) -> Labelled:
    """The labelled pictures of `source`, its classes renumbered as in `like`."""
    known = None if source.labels is None else source.labels >= 0
    if source.labels is None or source.classes is None or known is None or not known.any():
        raise no_labels(source, "an evaluation")
    classes = source.labels.astype(np.int64)
    if like is not None and source.classes != like.classes:
        classes = np.where(known, _renumbering(source, like)[classes], -1)
    return Labelled(source, np.flatnonzero(known), classes)


def no_labels(source: Source, what: str) -> UserError:
    """The error for `what` that cannot do without labels, with the reason why there are none."""
    why = "" if source.unlabelled is None else f"; {source.unlabelled.reason}"
    return UserError(
        f"{source.name} has no labels, which {what} needs: one folder per class, or a list with a "
        f"label column{why}"
    )


def _renumbering(source: Source, like: Source) -> np.ndarray:
    """Number in `like` of every class of `source`."""
    ours, theirs = source.classes or [], like.classes or []
    extra, missing = set(ours) - set(theirs), set(theirs) - set(ours)
    if extra or missing:
        told = [f"only in {source.name}: {', '.join(sorted(extra)[:5])}"] if extra else []
        told += [f"only in {like.name}: {', '.join(sorted(missing)[:5])}"] if missing else []
        raise UserError(
            f"the classes of training and test {source.media.noun}s differ; {'; '.join(told)}"
        )
    place = {name: number for number, name in enumerate(theirs)}
    return np.array([place[name] for name in ours])
