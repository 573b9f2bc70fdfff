"""Intersection over union and accuracies of pixels, with bootstrap intervals over pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vistill.evaluation.retrieval import Figure

_DRAWS = 1000


@dataclass(frozen=True)
class SegmentationScore:
    """Result of one seed; figures are percent.

    Attributes:
        seed: of the head, the order and the crops.
        mean_iou: mean over the classes of intersection over union.
        pixel_accuracy: share of the pixels whose class is right.
        mean_accuracy: mean over the classes of the share of their pixels that is right.
        iou: intersection over union by class; of the classes that are there or were found.
        pictures: tested.
        seconds: wall-clock time.
        broken: names of the test pictures that could not be read.
    """

    seed: int
    mean_iou: Figure
    pixel_accuracy: Figure
    mean_accuracy: Figure
    iou: Mapping[str, float]
    pictures: int
    seconds: float
    broken: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"mIoU {self.mean_iou} %, pixel accuracy {self.pixel_accuracy} %, mean accuracy "
            f"{self.mean_accuracy} % over {len(self.iou)} classes, {self.pictures} pictures, "
            f"seed {self.seed}"
        )


def counts_of(
    found: Int[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"], num_classes: int, ignored: int
) -> Int[np.ndarray, "3 c"]:
    """Of every class the pixels that are right, those of it, and those that were found to be."""
    known = truth != ignored
    found, truth = found[known], truth[known]
    each = (truth[found == truth], truth, found)
    return np.stack([np.bincount(one.ravel(), minlength=num_classes) for one in each])


def segmentation_figures(
    counts: Int[np.ndarray, "n 3 c"], names: Sequence[str]
) -> tuple[Figure, Figure, Figure, dict[str, float]]:
    """mIoU, pixel accuracy and mean accuracy in percent, and IoU by class.

    Args:
        counts: `counts_of` every picture; intervals are over draws of as many pictures, with
            replacement.
        names: of the classes.
    """
    rng, n = np.random.default_rng(0), len(counts)
    times = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    drawn = np.einsum("dn,nkc->dkc", times, counts)
    whole = counts.sum(axis=0)[None]
    values, draws = _figures(whole)[0], _figures(drawn)
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    figures = [
        Figure(*(100 * float(one) for one in told)) for told in zip(values, low, high, strict=True)
    ]
    iou = _iou(whole)[0]
    by_class = {
        name: float(value) for name, value in zip(names, iou, strict=True) if not np.isnan(value)
    }
    return figures[0], figures[1], figures[2], by_class


def _iou(counts: Int[np.ndarray, "d 3 c"]) -> Float[np.ndarray, "d c"]:
    right, there, found = counts.transpose(1, 0, 2).astype(float)
    union = there + found - right
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)


def _figures(counts: Int[np.ndarray, "d 3 c"]) -> Float[np.ndarray, "d 3"]:
    right, there, _ = counts.transpose(1, 0, 2).astype(float)
    share = np.divide(right, there, out=np.full_like(right, np.nan), where=there > 0)
    pixels = right.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return np.stack([np.nanmean(_iou(counts), axis=1), pixels, np.nanmean(share, axis=1)], axis=1)
