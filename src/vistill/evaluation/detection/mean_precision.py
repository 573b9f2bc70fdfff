"""Frame-mAP: the mean over actions of the average precision on key frames (AVA, arXiv 1705.08421).

Precision is interpolated at every recall, as the Pascal VOC challenge does since 2010. A detection
is right when, among the people of its frame who do its action, the one it overlaps most reaches the
threshold and no stronger detection has found that person.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vistill.evaluation.detection.boxes import overlaps


@dataclass(frozen=True)
class Actions:
    """Boxes with one action each.

    Attributes:
        frames: number of each box's key frame.
        boxes: x0, y0, x1, y1 as shares of width and height.
        actions: number of each box's action.
        scores: how sure a detection is; 1 for the truth.
    """

    frames: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    actions: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]

    def of(self, action: int) -> "Actions":
        """Those of one action."""
        rows = self.actions == action
        return Actions(self.frames[rows], self.boxes[rows], self.actions[rows], self.scores[rows])


def frame_average_precisions(
    found: Actions, truth: Actions, actions: Collection[int], threshold: float = 0.5
) -> dict[int, float]:
    """Average precision of every action in `actions` that the truth holds at all.

    Args:
        found: detections on the key frames of the truth.
        truth: what people really do.
        actions: which actions count.
        threshold: least intersection over union.
    """
    precisions = {}
    for action in sorted(actions):
        wanted = truth.of(action)
        if len(wanted.frames):
            some = found.of(action)
            hits = _hits(some, wanted, threshold)
            precisions[action] = average_precision(some.scores, hits, len(wanted.frames))
    return precisions


def _hits(found: Actions, truth: Actions, threshold: float) -> Bool[Tensor, " n"]:
    """Which detections of one action are right."""
    hits = torch.zeros(len(found.scores), dtype=torch.bool)
    people: dict[int, list[int]] = defaultdict(list)
    for row, frame in enumerate(truth.frames.tolist()):
        people[frame].append(row)
    seen: set[int] = set()
    for row in found.scores.argsort(descending=True, stable=True).tolist():
        rows = people.get(int(found.frames[row]), [])
        if not rows:
            continue
        shares = overlaps(found.boxes[row][None], truth.boxes[rows])[0]
        best = int(shares.argmax())
        person = rows[best]
        if shares[best] >= threshold and person not in seen:
            seen.add(person)
            hits[row] = True
    return hits


def average_precision(scores: Float[Tensor, " n"], hits: Bool[Tensor, " n"], people: int) -> float:
    """Area under the interpolated curve of precision over recall.

    Args:
        scores: of the detections; among equals the earlier comes first.
        hits: which of them are right.
        people: how many there are to be found, at least one.
    """
    right = hits[scores.argsort(descending=True, stable=True)].double()
    if not len(right):
        return 0.0
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    # The best precision at this recall or any higher one.
    precision = precision.flip(0).cummax(0).values.flip(0)
    return float((precision * right).sum() / people)
