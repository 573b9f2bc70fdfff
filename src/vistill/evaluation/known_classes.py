"""Which outputs of a trained classifier the classes of some samples are."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from torch import Tensor

from vistill.config.suggest import did_you_mean
from vistill.data import Source
from vistill.errors import UserError
from vistill.evaluation.labelled import no_labels
from vistill.models.imagenet_names import imagenet_classes

Among = Literal["data", "all"]


class Known(NamedTuple):
    """Samples of classes that a classifier knows.

    Attributes:
        truth: place of each sample's class among the scores that are compared; -1 without a label.
        outputs: whose scores are compared, ascending; None: all of them.
        all_outputs: how many the classifier has.
    """

    truth: Int[np.ndarray, " n"]
    outputs: Int[np.ndarray, " k"] | None
    all_outputs: int

    @property
    def among(self) -> tuple[int, int] | None:
        """How many classes are compared, and of how many; None: all."""
        return None if self.outputs is None else (len(self.outputs), self.all_outputs)

    @property
    def indices(self) -> Int[np.ndarray, " m"]:
        """The samples with a label."""
        return np.flatnonzero(self.truth >= 0)

    def compared(self, scores: Tensor) -> Tensor:
        """Of class scores `[b, c]` those that are compared."""
        return scores if self.outputs is None else scores[:, self.outputs]


def known_classes(
    source: Source, outputs: int, names: list[str] | None, origin: str, among: Among
) -> Known:
    """Find the classes of `source` among those of a classifier.

    They are matched by name. A classifier that names none and has as many as an ImageNet knows its
    wnids and words (`vistill.models.imagenet_names`); of another one the source has all classes,
    in its order, or its classes are called by the numbers of the outputs.

    Args:
        source: labelled samples.
        outputs: of the classifier.
        names: by output, where it tells some.
        origin: of the classifier, in sentences.
        among: compare the scores of the source's classes alone, as ImageNet-A and ImageNet-R are
            evaluated, or of all.

    Raises:
        UserError: no labels, or a class that the classifier does not know.
    """
    if source.labels is None or source.classes is None or not (source.labels >= 0).any():
        raise no_labels(source, "a test")
    numbers = _numbers(source.name, source.classes, outputs, names, origin)
    chosen = None
    if among == "data" and len(numbers) < outputs:
        chosen = np.sort(numbers)
        numbers = np.searchsorted(chosen, numbers)
    truth = np.where(source.labels >= 0, numbers[source.labels], -1)
    return Known(truth, chosen, outputs)


def _numbers(
    data: str, classes: list[str], outputs: int, names: list[str] | None, origin: str
) -> Int[np.ndarray, " c"]:
    """The output of each of the classes."""
    place = {name: number for number, name in enumerate(names or ())}
    if names is None:
        place = {**imagenet_classes(outputs)}
        if not place.keys() >= set(classes) and len(classes) == outputs:
            return np.arange(outputs)
        if not place.keys() & set(classes):
            place = {str(number): number for number in range(outputs)}
        if not place.keys() & set(classes):
            raise UserError(
                f"{origin} tells {outputs} classes apart without naming them, and {data} has "
                f"{len(classes)}, such as {classes[0]!r}"
            )
    for name in classes:
        if name not in place:
            raise UserError(
                f"{origin} does not know the class {name!r} of {data}{did_you_mean(name, place)}"
            )
    numbers = np.array([place[name] for name in classes])
    if len(set(numbers.tolist())) < len(numbers):
        twice = next(n for i, n in enumerate(numbers.tolist()) if n in numbers[:i])
        both = [name for name in classes if place[name] == twice]
        raise UserError(f"{data} has one class of {origin} under two names, {' and '.join(both)}")
    return numbers
