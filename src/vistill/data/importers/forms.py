"""The official annotation forms of collections of clips, each read into entries."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistill.data.lines import each_row
from vistill.data.listing import READERS, read_text
from vistill.data.source import CLIPS, Stretch
from vistill.errors import UserError

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
           "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
_AROUND = 2.0
"""Seconds around all key frames of a video of AVA that belong to its annotated part."""


@dataclass(frozen=True)
class Entry:
    """A clip that an annotation speaks of.

    Attributes:
        names: what its file may be called, without the ending, likeliest first.
        label: name or number of its class.
        split: `train`, `val`, `test` or what else the annotation calls it.
        part: of the file by the last of the names, where that is longer.
        exact: whether the only name is a path as it is, and `part` counts as it is.
    """

    names: tuple[str, ...]
    label: str | None = None
    split: str | None = None
    part: Stretch | None = None
    exact: bool = False


def usual_split(word: str) -> str | None:
    """`train`, `val` or `test` by one of their names."""
    return _SPLITS.get(word.lower())


def split_of_file(path: Path) -> str | None:
    """The split that a file's name speaks of, as `trainlist01.txt` or `trainingSet.csv` do."""
    for word in re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", path.stem).lower()):
        if split := usual_split(word) or usual_split(word.removesuffix("list")):
            return split
    return None


def kinetics(files: Sequence[Path]) -> Iterator[Entry]:
    """CSV with the columns `label` (not of the test), `youtube_id`, `time_start`, `time_end` and
    `split`; or the same as JSON. Files are called `ID_000001_000011` or `ID`."""
    for file in files:
        rows = _kinetics_json(file) if file.suffix == ".json" else _table(file, _KINETICS)
        for where, row in rows:
            video, part = row["youtube_id"], _seconds(where, row["time_start"], row["time_end"])
            split = row.get("split") or ""
            yield Entry(
                (f"{video}_{int(part.start):06}_{int(part.end):06}", video),
                (row.get("label") or "").strip('"') or None,
                usual_split(split) or split or split_of_file(file),
                part,
            )


_KINETICS = ("youtube_id", "time_start", "time_end")


def _kinetics_json(file: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    for video, told in _json(file, dict).items():
        where = f"'{file}' entry '{video}'"
        try:
            start, end = told["annotations"]["segment"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} has no annotations.segment of two times") from error
        yield where, {"youtube_id": video, "time_start": str(start), "time_end": str(end),
                      "label": told["annotations"].get("label", ""),
                      "split": told.get("subset", "")}  # fmt: skip


def something(files: Sequence[Path]) -> Iterator[Entry]:
    """Something-Something V2: JSON lists of `id` and `template`, the class without its brackets;
    those of the test have none. The list of classes may lie among the files."""
    for file in files:
        told = _json(file, (list, dict))
        if isinstance(told, dict):
            continue
        for number, item in enumerate(told):
            if not isinstance(item, dict) or "id" not in item:
                raise UserError(f"'{file}' entry {number} is no object with an id")
            template = re.sub(r"[\[\]]", "", item.get("template") or "").strip()
            yield Entry((str(item["id"]),), template or None, split_of_file(file))


def ucf101(files: Sequence[Path]) -> Iterator[Entry]:
    """`trainlist01.txt` with `Class/video.avi number`, `testlist01.txt` with `Class/video.avi`."""
    lists = [file for file in files if not file.stem.lower().startswith("classind")]
    _require_one_split(lists, r"(\d+)$", "*list01.txt")
    for file in lists:
        for where, line in _lines(file):
            path = re.sub(r"\s+\d+$", "", line)
            label, slash, name = path.rpartition("/")
            if not slash or not CLIPS.holds(name):
                raise UserError(f"{where} is not of the form 'Class/video.avi number': {line!r}")
            yield Entry((_stem(path),), label, split_of_file(file))


def hmdb51(files: Sequence[Path]) -> Iterator[Entry]:
    """`CLASS_test_split1.txt` with `video.avi 1` (training), `2` (test) or `0` (neither)."""
    _require_one_split(files, r"_test_split(\d+)$", "*_test_split1.txt")
    for file in files:
        label = re.sub(r"_test_split\d+$", "", file.stem)
        if label == file.stem:
            raise UserError(f"'{file}' is not called CLASS_test_split1.txt")
        for where, line in _lines(file):
            name, _, number = line.rpartition(" ")
            if number not in _HMDB:
                raise UserError(f"{where} is not of the form 'video.avi 0', 1 or 2: {line!r}")
            yield Entry((f"{label}/{_stem(name.strip())}",), label, _HMDB[number])


UNUSED = "unused"
"""Split of clips that an annotation leaves out of all its parts."""
_HMDB = {"0": UNUSED, "1": "train", "2": "test"}


def moments(files: Sequence[Path]) -> Iterator[Entry]:
    """Moments in Time: CSV without header, `class/video.mp4,class,votes for,votes against`."""
    for file in files:
        for where, row in _csv(file):
            if len(row) < 2 or not CLIPS.holds(row[0]):
                raise UserError(f"{where} is not of the form 'class/video.mp4,class,...'")
            yield Entry((_stem(row[0]),), row[1], split_of_file(file))


def ava(files: Sequence[Path]) -> Iterator[Entry]:
    """AVA: the videos of its rows `video,seconds,...`. Its labels are those of people, not of
    clips; the part that has key frames is what is used of a whole film."""
    for file in files:
        seconds: dict[str, tuple[float, float]] = {}
        for where, row in _csv(file):
            try:
                time = float(row[1])
            except (IndexError, ValueError):
                if not seconds and not any(cell.replace(".", "").isdecimal() for cell in row):
                    continue  # a header
                raise UserError(f"{where} is not of the form 'video,seconds,...'") from None
            low, high = seconds.get(row[0], (time, time))
            seconds[row[0]] = min(low, time), max(high, time)
        for video, (low, high) in seconds.items():
            part = Stretch(max(0.0, low - _AROUND), high + _AROUND)
            yield Entry((video,), None, split_of_file(file), part)


def listed(files: Sequence[Path]) -> Iterator[Entry]:
    """Lists of `folder frames label` or `path label`, as mmaction, TSN and VideoMAE have them, or
    with columns."""
    for file in files:
        for row in each_row(READERS.get(file.suffix.lower(), read_text)(file, CLIPS).rows):
            yield Entry((row.path,), row.label, split_of_file(file), row.part, exact=True)


FORMS: dict[str, Callable[[Sequence[Path]], Iterator[Entry]]] = {
    "k400": kinetics,
    "k600": kinetics,
    "k700": kinetics,
    "ssv2": something,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "mit": moments,
    "ava": ava,
    "rawframes": listed,
    "videofolder": listed,
}
"""How the annotations of a format are read."""


def read_classes(file: Path) -> dict[str, str]:
    """Names of classes by number.

    JSON of names, `{name: number}` or `{number: name}`; or a line each: `number name`,
    `name,number`, or a name alone, which are then counted from 0.

    Raises:
        UserError: it cannot be read.
    """
    if file.suffix.lower() == ".json":
        told = _json(file, (list, dict))
        if isinstance(told, list):
            return {str(number): str(name) for number, name in enumerate(told)}
        if all(str(key).isdecimal() for key in told):
            return {str(key): str(name) for key, name in told.items()}
        return {str(number): str(name) for name, number in told.items()}
    lines = [line for _, line in _lines(file)]
    for form in (r"(?P<number>\d+)[\s,;]+(?P<name>.+)", r"(?P<name>.+?)[,;\t]\s*(?P<number>\d+)"):
        found = [re.fullmatch(form, line) for line in lines]
        if all(found):
            return {one["number"]: one["name"].strip() for one in found if one}
    return {str(number): name for number, name in enumerate(lines)}


def read_keys(file: Path) -> dict[str, str]:
    """Labels by key, for samples of a WebDataset: JSON `{key: label}`, or a line each, of which a
    tab, a comma or the first space separates both.

    Raises:
        UserError: it cannot be read.
    """
    if file.suffix.lower() == ".json":
        return {str(key): str(label) for key, label in _json(file, dict).items()}
    labels = {}
    for where, line in _lines(file):
        separator = next((one for one in ("\t", ",", " ") if one in line), None)
        key, _, label = line.partition(separator) if separator else (line, "", "")
        if not label.strip():
            raise UserError(f"{where} is not of the form 'key label': {line!r}")
        labels[key.strip()] = label.strip()
    return labels


def _require_one_split(files: Sequence[Path], number: str, example: str) -> None:
    """Collections that were split three times over have the same clips in all of the three."""
    found = {match[1] for file in files if (match := re.search(number, file.stem))}
    if len(found) > 1:
        raise UserError(
            f"these are the annotations of splits {', '.join(sorted(found))}, which hold the same "
            f"clips; name those of one of them, such as '{files[0].parent / example}'"
        )


def _stem(path: str) -> str:
    return path.rpartition(".")[0] if CLIPS.holds(path) else path


def _seconds(where: str, start: str, end: str) -> Stretch:
    try:
        part = Stretch(float(start), float(end))
    except ValueError:
        part = Stretch(0.0, 0.0)
    if not 0 <= part.start < part.end:
        raise UserError(f"{where}: from {start!r} to {end!r} s is no stretch of time")
    return part


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(file).splitlines(), 1):
        if line.strip():
            yield f"'{file}' line {number}", line.strip()


def _csv(file: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(_text(file).splitlines())
    for row in filter(None, reader):
        yield f"'{file}' line {reader.line_num}", [cell.strip() for cell in row]


def _table(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows by the names in the first of them."""
    head: list[str] = []
    for where, row in _csv(file):
        if not head:
            head = [cell.lower() for cell in row]
            if lacking := [name for name in needed if name not in head]:
                raise UserError(
                    f"{where} is no header with {', '.join(needed)}: there is no {lacking[0]}; "
                    "lists of 'path label' are --format videofolder"
                )
        elif len(row) != len(head):
            raise UserError(f"{where} has {len(row)} columns, not {len(head)}")
        else:
            yield where, dict(zip(head, row, strict=True))


def _json(file: Path, kinds: type | tuple[type, ...]) -> Any:
    try:
        told = json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"'{file}' is no JSON: {error}") from error
    if not isinstance(told, kinds):
        raise UserError(f"'{file}' holds JSON of another form")
    return told


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read as text: {error}") from error
