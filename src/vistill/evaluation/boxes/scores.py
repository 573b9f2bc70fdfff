"""Average precision of what was found, by faster-coco-eval, with bootstrap intervals over
pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vistill.evaluation.boxes.annotations import Things
from vistill.evaluation.boxes.shapes import runs_of
from vistill.evaluation.retrieval import Figure

_DRAWS = 200
_ALL = 0
_HALF, _THREE_QUARTERS = 0, 5
"""Places of the overlaps 0.5 and 0.75 among 0.5, 0.55, …, 0.95."""


@dataclass(frozen=True)
class Found:
    """What was found on a picture, in its own pixels.

    Attributes:
        whole: height and width of the picture.
        boxes: x0, y0, x1, y1.
        classes: positions in the list of names.
        scores: of each, in [0, 1].
        masks: packed runs of each; empty where none were asked for.
    """

    whole: tuple[int, int]
    boxes: Float[np.ndarray, "k 4"]
    classes: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    masks: tuple[Mapping[str, Any], ...] = ()


class Precision(NamedTuple):
    """Average precision in percent.

    Attributes:
        mean: mean over the overlaps 0.5, 0.55, …, 0.95 and the classes.
        half, three_quarters: at an overlap of 0.5 and of 0.75.
        by_class: mean over the overlaps, and at 0.5, by class; of classes that are there.
    """

    mean: Figure
    half: Figure
    three_quarters: Figure
    by_class: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        return f"mAP {self.mean} %, mAP50 {self.half} %, mAP75 {self.three_quarters} %"


@dataclass(frozen=True)
class BoxScore:
    """Result of one seed.

    Attributes:
        seed: of the heads, the labelled pictures, their order and the crops.
        boxes: precision of boxes.
        masks: precision of shapes, where they were asked for.
        train_pictures: learned from.
        pictures: tested.
        seconds: wall-clock time.
        broken: names of the test pictures that could not be read.
    """

    seed: int
    boxes: Precision
    masks: Precision | None
    train_pictures: int
    pictures: int
    seconds: float
    broken: tuple[str, ...]

    def __str__(self) -> str:
        shapes = "" if self.masks is None else f"; shapes: {self.masks}"
        return (
            f"{self.boxes}{shapes}; {len(self.boxes.by_class)} classes, {self.train_pictures} "
            f"pictures to learn from, {self.pictures} tested, seed {self.seed}"
        )


def precision_of(
    found: Sequence[Found], truth: Sequence[Things], names: Sequence[str], *, masks: bool = False
) -> Precision:
    """The precision of what was found on some pictures.

    Intervals are over draws of as many pictures, with replacement; each is counted anew by
    faster-coco-eval from what it matched once.

    Args:
        found: on each picture.
        truth: what is on each of them.
        names: of the classes.
        masks: compare shapes instead of boxes.
    """
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval import faster_eval_api_cpp as counting

    told = COCO(_dataset(found, truth, names, masks=masks))
    ours = told.loadRes(_detections(found, masks=masks))
    measured: Any = COCOeval_faster(
        told, ours, "segm" if masks else "bbox", print_function=_quiet, separate_eval=True
    )
    measured.params.areaRng = measured.params.areaRng[:1]
    measured.params.areaRngLbl = measured.params.areaRngLbl[:1]
    measured.params.maxDets = measured.params.maxDets[-1:]
    measured.evaluate()
    matched, n = np.array(measured._evalImgs_cpp, dtype=object), len(found)
    matched = matched.reshape(len(names), n)

    def counted(chosen: Int[np.ndarray, " n"]) -> Float[np.ndarray, "t c"]:
        values = counting.COCOevalAccumulate(
            measured._paramsEval, matched[:, chosen].ravel().tolist()
        )
        precision = np.asarray(values["precision"])[:, :, :, _ALL, -1].mean(axis=1)
        return np.where(precision < 0, np.nan, 100 * precision)

    whole = counted(np.arange(n))
    rng = np.random.default_rng(0)
    drawn = [_figures(counted(rng.integers(0, n, n))) for _ in range(_DRAWS)]
    low, high = np.nanquantile(np.stack(drawn), [0.025, 0.975], axis=0)
    mean, half, more = (
        Figure(*(float(one) for one in figure))
        for figure in zip(_figures(whole), low, high, strict=True)
    )
    by_class = {
        name: (float(column.mean()), float(column[_HALF]))
        for name, column in zip(names, whole.T, strict=True)
        if not np.isnan(column).any()
    }
    return Precision(mean, half, more, by_class)


def _figures(precision: Float[np.ndarray, "t c"]) -> Float[np.ndarray, " 3"]:
    """Means over the classes that are there: over all overlaps, at 0.5 and at 0.75."""
    there = precision[:, ~np.isnan(precision).any(axis=0)]
    if not there.size:
        return np.full(3, np.nan)
    by_overlap = there.mean(axis=1)
    return np.array([by_overlap.mean(), by_overlap[_HALF], by_overlap[_THREE_QUARTERS]])


def _dataset(
    found: Sequence[Found], truth: Sequence[Things], names: Sequence[str], *, masks: bool
) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, (one, things) in enumerate(zip(found, truth, strict=True)):
        for i, (x0, y0, x1, y1) in enumerate(things.boxes.astype(float)):
            told: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number + 1,
                "category_id": int(things.classes[i]) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(things.unasked[i]),
            }
            if masks:
                told["segmentation"] = runs_of(things.shapes[i], one.whole)
            annotations.append(told)
    images = [
        {"id": number + 1, "height": one.whole[0], "width": one.whole[1]}
        for number, one in enumerate(found)
    ]
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _detections(found: Sequence[Found], *, masks: bool) -> list[dict[str, Any]]:
    told = []
    for number, one in enumerate(found):
        for i, (x0, y0, x1, y1) in enumerate(one.boxes.astype(float)):
            entry: dict[str, Any] = {
                "image_id": number + 1,
                "category_id": int(one.classes[i]) + 1,
                "score": float(one.scores[i]),
            }
            if masks:
                entry["segmentation"] = dict(one.masks[i])
            else:
                entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            told.append(entry)
    return told


def _quiet(*_: object) -> None:
    """Print nothing."""
