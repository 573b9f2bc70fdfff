"""Reading annotations of AVA's format: boxes with actions, person detections, actions, exclusions.

Rows are `video,seconds,x0,y0,x1,y1,action,person` without a header, coordinates as shares of width
and height; detections have a score in the place of the person and no action.
"""

import csv
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vistill.errors import UserError

Moment = tuple[str, float]
"""Video and second of a key frame."""


@dataclass(frozen=True)
class KeyFrame:
    """People on one key frame.

    Attributes:
        video: name of the video file without its suffix.
        seconds: where in the video.
        boxes: float32 `[k, 4]`, x0, y0, x1, y1 as shares of width and height.
        actions: per box the numbers of what the person does, from 1; empty for detections.
        scores: per box how sure the detector is; 1 for the truth.
    """

    video: str
    seconds: float
    boxes: Float[np.ndarray, "k 4"]
    actions: tuple[frozenset[int], ...]
    scores: tuple[float, ...]

    @property
    def moment(self) -> Moment:
        """What says which key frame it is."""
        return self.video, self.seconds


def read_annotations(path: Path) -> list[KeyFrame]:
    """Key frames of a file of labelled boxes, in the order of first appearance.

    Rows with the same box and person are one person who does several things.

    Raises:
        UserError: names file and line of what cannot be read.
    """
    people: dict[Moment, dict[tuple[float, ...], set[int]]] = {}
    for line, row in _rows(path, "video,seconds,x0,y0,x1,y1,action[,person]", 7):
        moment = _moment(path, line, row)
        box = (*_box(path, line, row), _number(path, line, "person", row[7] if row[7:] else "0"))
        action = _number(path, line, "action", row[6])
        if action < 1 or action != int(action):
            raise UserError(
                f"{path}, line {line}: an action is a whole number from 1, not {row[6]}"
            )
        people.setdefault(moment, {}).setdefault(box, set()).add(int(action))
    return [
        KeyFrame(
            video,
            seconds,
            np.array([box[:4] for box in boxes], dtype=np.float32),
            tuple(frozenset(actions) for actions in boxes.values()),
            (1.0,) * len(boxes),
        )
        for (video, seconds), boxes in people.items()
    ]


def read_detections(path: Path, least_score: float) -> list[KeyFrame]:
    """Key frames of a file of detected people, those of at least `least_score`.

    Raises:
        UserError: names file and line of what cannot be read.
    """
    people: dict[Moment, list[tuple[tuple[float, ...], float]]] = {}
    for line, row in _rows(path, "video,seconds,x0,y0,x1,y1,[action,]score", 7):
        score = _number(path, line, "score", row[-1])
        if score >= least_score:
            found = (_box(path, line, row), score)
            people.setdefault(_moment(path, line, row), []).append(found)
    return [
        KeyFrame(
            video,
            seconds,
            np.array([box for box, _ in found], dtype=np.float32),
            (frozenset(),) * len(found),
            tuple(score for _, score in found),
        )
        for (video, seconds), found in people.items()
    ]


def read_excluded(path: Path) -> set[Moment]:
    """Key frames that tests leave out: rows `video,seconds`.

    Raises:
        UserError: names file and line of what cannot be read.
    """
    return {_moment(path, line, row) for line, row in _rows(path, "video,seconds", 2)}


def read_actions(path: Path) -> dict[int, str]:
    """Names of the actions that count, by number: AVA's `.pbtxt`, or rows `number,name`.

    Raises:
        UserError: there is none in the file, or a line cannot be read.
    """
    if path.suffix == ".csv":
        rows = _rows(path, "number,name", 2)
        return {int(_number(path, line, "number", row[0])): row[1] for line, row in rows}
    names = {}
    for item in re.findall(r"\{(.*?)\}", path.read_text(), re.DOTALL):
        name = re.search(r'name:\s*"([^"]*)"', item)
        number = re.search(r"\b(?:id|label_id):\s*(\d+)", item)
        if name and number:
            names[int(number[1])] = name[1]
    if not names:
        raise UserError(f'{path} holds no action; AVA writes item {{ name: "stand" id: 12 }}')
    return names


def without(frames: list[KeyFrame], excluded: Collection[Moment]) -> list[KeyFrame]:
    """The key frames that are not excluded."""
    return [frame for frame in frames if frame.moment not in excluded]


def _rows(path: Path, form: str, fewest: int) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        for row in reader:
            if not row:
                continue
            if len(row) < fewest:
                raise UserError(f"{path}, line {reader.line_num}: not of the form {form}")
            yield reader.line_num, [cell.strip() for cell in row]


def _moment(path: Path, line: int, row: list[str]) -> Moment:
    return row[0], _number(path, line, "time", row[1])


def _box(path: Path, line: int, row: list[str]) -> tuple[float, ...]:
    box = tuple(_number(path, line, "coordinate", cell) for cell in row[2:6])
    inside = all(0 <= value <= 1 for value in box)
    if not inside or box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(
            f"{path}, line {line}: a box is x0,y0,x1,y1 with x0 < x1 and y0 < y1, as shares of "
            f"width and height from 0 to 1, not {','.join(row[2:6])}"
        )
    return box


def _number(path: Path, line: int, what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, line {line}: the {what} '{text}' is not a number")
    return value
