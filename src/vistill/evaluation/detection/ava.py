"""Reading annotations of AVA's format: boxes with actions, person detections, actions, exclusions.

Rows are `video,seconds,x0,y0,x1,y1,action,person`, coordinates as shares of width and height;
detections have a score in the place of the person and no action. Boxes that reach over the picture
are cut; rows that say nothing are left out, counted and told.
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


class OddRows:
    """Rows of a list that were changed or left out, to be told in one line.

    Args:
        path: of the list.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._kinds: dict[str, list[int]] = {}

    def add(self, what: str, line: int) -> None:
        """One more row of a kind."""
        self._kinds.setdefault(what, []).append(line)

    def require_few(self, form: str) -> None:
        """Whether most rows are of use.

        Raises:
            UserError: they are not, so that the list is of another form.
        """
        kinds = {what: lines for what, lines in self._kinds.items() if what in _NO_BOXES}
        if 2 * sum(map(len, kinds.values())) > self.rows:
            what, lines = max(kinds.items(), key=lambda found: len(found[1]))
            raise UserError(
                f"{self.path}, line {lines[0]} and {len(lines) - 1} others of {self.rows}: {what}; "
                f"rows are {form} with x0 < x1 and y0 < y1, as shares of width and height"
            )

    def notes(self) -> list[str]:
        """One sentence, where there are any."""
        if not self._kinds:
            return []
        told = [
            f"{len(lines)} × {what} (line {lines[0]}{', …' * (len(lines) > 1)})"
            for what, lines in self._kinds.items()
        ]
        return [f"{self.path.name}: {'; '.join(told)}"]


_CUT = "box cut to the picture"
_NO_AREA = "left out, a box without area"
_FAR = "left out, a box that is not on the picture"
_EMPTY = "left out, a key frame without people"
_NO_ACTION = "left out, a person without an action"
_HEADER = "left out, a header"
_NO_BOXES = (_NO_AREA, _FAR)
_BEYOND = 1.0
"""How far outside the picture, in its sides, a coordinate is still thought to be meant so."""


def read_annotations(path: Path, said: list[str] | None = None) -> list[KeyFrame]:
    """Key frames of a file of labelled boxes, in the order of first appearance.

    Rows with the same box and person are one person who does several things.

    Args:
        path: of the list.
        said: gets a sentence on rows that were changed or left out.

    Raises:
        UserError: names file and line of what cannot be read; or most boxes are none.
    """
    form, odd = "video,seconds,x0,y0,x1,y1,action[,person]", OddRows(path)
    people: dict[Moment, dict[tuple[float, ...], set[int]]] = {}
    for line, row in _rows(path, form, 2, odd):
        moment = _moment(path, line, row)
        if not any(row[2:6]):
            odd.add(_EMPTY, line)
            continue
        _require_cells(path, line, row, form, 7)
        where = _box(path, line, row, odd)
        if row[6].lower() in ("", "-1", "nan"):
            odd.add(_NO_ACTION, line)
            continue
        action = _number(path, line, "action", row[6])
        if action < 1 or action != int(action):
            raise UserError(
                f"{path}, line {line}: an action is a whole number from 1, not {row[6]}"
            )
        if where is not None:
            box = (*where, _number(path, line, "person", row[7] if any(row[7:8]) else "0"))
            people.setdefault(moment, {}).setdefault(box, set()).add(int(action))
    _finish(odd, form, said)
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


def read_detections(
    path: Path, least_score: float, said: list[str] | None = None
) -> list[KeyFrame]:
    """Key frames of a file of detected people, those of at least `least_score`.

    Args:
        path: of the list.
        least_score: below it a detection does not count.
        said: gets a sentence on rows that were changed or left out.

    Raises:
        UserError: names file and line of what cannot be read; or most boxes are none.
    """
    form, odd = "video,seconds,x0,y0,x1,y1,[action,]score", OddRows(path)
    people: dict[Moment, list[tuple[tuple[float, ...], float]]] = {}
    for line, row in _rows(path, form, 2, odd):
        moment = _moment(path, line, row)
        if not any(row[2:6]):
            odd.add(_EMPTY, line)
            continue
        _require_cells(path, line, row, form, 7)
        score = _number(path, line, "score", row[-1])
        box = _box(path, line, row, odd) if score >= least_score else None
        if box is not None:
            people.setdefault(moment, []).append((box, score))
    _finish(odd, form, said)
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


def _finish(odd: OddRows, form: str, said: list[str] | None) -> None:
    odd.require_few(form)
    if said is not None:
        said.extend(odd.notes())


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


def _rows(
    path: Path, form: str, fewest: int, odd: OddRows | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not empty; a header is passed over."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for number, cells in enumerate(filter(None, reader)):
            row, line = [cell.strip() for cell in cells], reader.line_num
            if number == 0 and len(row) >= fewest and not any(map(_is_number, row)):
                if odd is not None:
                    odd.add(_HEADER, line)
                continue
            _require_cells(path, line, row, form, fewest)
            if odd is not None:
                odd.rows += 1
            yield line, row


def _require_cells(path: Path, line: int, row: list[str], form: str, fewest: int) -> None:
    if len(row) < fewest:
        raise UserError(f"{path}, line {line}: not of the form {form}")


def _moment(path: Path, line: int, row: list[str]) -> Moment:
    return row[0], _number(path, line, "time", row[1])


def _box(path: Path, line: int, row: list[str], odd: OddRows) -> tuple[float, ...] | None:
    """The box of a row on the picture; None where nothing of it is."""
    given = tuple(_number(path, line, "coordinate", cell) for cell in row[2:6])
    if not all(-_BEYOND <= value <= 1 + _BEYOND for value in given):
        odd.add(_FAR, line)
        return None
    box = tuple(min(max(value, 0.0), 1.0) for value in given)
    if box[0] >= box[2] or box[1] >= box[3]:
        odd.add(_NO_AREA, line)
        return None
    if box != given:
        odd.add(_CUT, line)
    return box


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, line {line}: the {what} '{text}' is not a number")
    return value
