"""The columns of lists: which are known, what their cells mean, and what is said of others."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from vistill.data.names import Coded
from vistill.data.source import NO_CLASS, Media, Stretch
from vistill.errors import UserError

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
CAPTION_COLUMN = "caption"
SPAN_COLUMNS = ("start", "end")
FRAME_COLUMNS = ("start_frame", "end_frame")
PROBLEM_COLUMN = "problem"
SPLIT_COLUMN = "split"
SHARD_COLUMNS = ("shard", "offset", "size")
PROOF_COLUMN = "proof"
FACTS = frozenset({"duration", "fps", "frames", "width", "height", "codec", "hash", "corrupt",
                   "source", "size"})  # fmt: skip
"""What `vistill prepare` tells of a file besides; nothing is missed where it is not read."""
SYNONYMS = {
    PATH_COLUMN: ("file", "filename", "file_name", "filepath", "file_path", "video", "video_path",
                  "video_name", "clip", "image", "image_path", "image_name", "img", "img_path",
                  "frame_dir", "name"),
    LABEL_COLUMN: ("class", "class_name", "classname", "class_id", "category", "target", "labels",
                   "label_name", "label_id", "action"),
    "start": ("start_time", "time_start", "start_sec", "start_seconds", "t_start", "begin", "from"),
    "end": ("end_time", "time_end", "end_sec", "end_seconds", "t_end", "stop", "to"),
    "start_frame": ("frame_start", "start_idx", "start_index", "first_frame", "begin_frame"),
    "end_frame": ("frame_end", "stop_frame", "end_idx", "end_index", "last_frame"),
}  # fmt: skip
"""What other tools call the columns that are read here."""
_OF_MEDIA = ("media", "image", "video")
"""Columns of paths beside captions, as the published lists of video-text corpora call them."""
CAPTIONED = (CAPTION_COLUMN, "captions", "question", "answer", *_OF_MEDIA)
"""All of these names."""
_CLOSE = 0.8


class Row(NamedTuple):
    """One line of a list.

    Attributes:
        path: a file, or a folder of frames.
        label: what it shows; None where the list does not tell.
        part: of a video, that is the sample; None: all of it.
        captions: what is said of it.
    """

    path: str
    label: str | None = None
    part: Stretch | None = None
    captions: tuple[str, ...] = ()


def known_names(names: Sequence[str]) -> list[str]:
    """The names of columns as they are called here.

    `captions` or `question` is `caption`, and beside it `media`, `image` or `video` is `path` and
    `answer` is `label`, where there is none.
    """
    found = list(names)
    said = next((name for name in ("captions", "question") if name in found), None)
    if CAPTION_COLUMN not in found and said is not None:
        found[found.index(said)] = CAPTION_COLUMN
    if CAPTION_COLUMN in found and LABEL_COLUMN not in found and "answer" in found:
        found[found.index("answer")] = LABEL_COLUMN
    path = next((name for name in _OF_MEDIA if name in found), None)
    if CAPTION_COLUMN in found and PATH_COLUMN not in found and path is not None:
        found[found.index(path)] = PATH_COLUMN
    return found


def check_columns(where: str, names: Sequence[str], media: Media) -> list[str]:
    """Whether the columns of a list can be read.

    Args:
        where: the list, as people look for it.
        names: of its columns, in small letters.
        media: what its samples are.

    Returns:
        A sentence on those that are not used.

    Raises:
        UserError: one that is there twice, half of a pair, or one that is meant to be read by its
            looks but has another name.
    """
    used = [PATH_COLUMN, LABEL_COLUMN, CAPTION_COLUMN]
    if media.noun == "clip":
        used += [*SPAN_COLUMNS, *FRAME_COLUMNS]
    unused = []
    for name, count in Counter(names).items():
        if name in used:
            if count > 1:
                raise UserError(f"{where} has {count} columns '{name}'")
        elif name not in FACTS:
            meant = _meant(name, [one for one in used if one not in names])
            if meant is not None:
                raise UserError(
                    f"{where} has a column '{name}', which is not read; did you mean '{meant}'? "
                    "Rename it, or take it out"
                )
            unused.append(f"'{name}'")
    for first, last in (SPAN_COLUMNS, FRAME_COLUMNS) if media.noun == "clip" else ():
        if (first in names) != (last in names):
            raise UserError(f"{where} has a column {first} or {last} without the other")
    if not unused:
        return []
    many = f"columns {', '.join(unused)} are" if len(unused) > 1 else f"column {unused[0]} is"
    return [f"the {many} not used"]


def near_path(columns: Iterable[str]) -> str:
    """`did you mean` for a misspelt column of paths."""
    names = [name.strip() for name in columns]
    near = [name for name in names if name.lower() in SYNONYMS[PATH_COLUMN]]
    near += get_close_matches(PATH_COLUMN, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _meant(name: str, columns: Sequence[str]) -> str | None:
    """Which of the columns goes by another name."""
    for column in columns:
        if name in SYNONYMS.get(column, ()):
            return column
    return next(iter(get_close_matches(name, columns, n=1, cutoff=_CLOSE)), None)


def read_row(where: str, cells: Mapping[str, Any], media: Media) -> Row:
    """From the cells of a line, by column.

    Raises:
        UserError: names line and cell.
    """
    path = cells[PATH_COLUMN]
    if not isinstance(path, str) or not path:
        raise UserError(f"{where} has no path{'' if path in (None, '') else f' but {path!r}'}")
    bounded = media.noun == "clip" and ("start" in cells or "start_frame" in cells)
    part = _part(where, cells) if bounded else None
    captions = caption_texts(where, cells.get(CAPTION_COLUMN))
    return Row(path, label_text(where, cells.get(LABEL_COLUMN)), part, captions)


def caption_texts(where: str, told: Any) -> tuple[str, ...]:
    """The captions of a sample: one text, or a list of them; without those that are empty.

    Raises:
        UserError: it is of another kind.
    """
    several = told if isinstance(told, list | tuple) else (told,)
    texts = [text for text in several if text is not None and text == text]  # pandas writes NaN
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: a caption is a text or a list of texts, not {told!r}")
    return tuple(text.strip() for text in texts if text.strip())


def label_text(where: str, label: Any) -> str | None:
    """Name of a class as it stands in a list: text, or a number; None for an empty cell.

    Raises:
        UserError: it is of another kind, such as a list of classes.
    """
    if label is None or label == "":
        return None
    if isinstance(label, str):
        return label
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    if isinstance(label, float):  # pandas makes them of whole numbers with gaps
        return str(int(label)) if label.is_integer() else str(label)
    if isinstance(label, int):
        return str(label)
    raise UserError(f"{where}: a sample has one class, and its label is {label!r}")


def _part(where: str, cells: Mapping[str, Any]) -> Stretch | None:
    """The part of a video that a line speaks of, in seconds or in frames."""
    found = [
        read(where, cells[first], cells[last])
        for (first, last), read in ((SPAN_COLUMNS, in_seconds), (FRAME_COLUMNS, in_frames))
        if not (_empty(cells.get(first)) and _empty(cells.get(last)))
    ]
    if len(found) > 1:
        raise UserError(f"{where} tells a part in seconds and in frames; leave one of them empty")
    return found[0] if found else None


def _empty(cell: Any) -> bool:
    return cell is None or cell == "" or cell != cell or cell == "nan"


def in_seconds(where: str, start: Any, end: Any) -> Stretch:
    """A part by its start and end in seconds, from numbers or words.

    Raises:
        UserError: they are no such numbers.
    """
    part = _numbers(where, start, end, "start and end must be seconds")
    if not 0 <= part.start < part.end < math.inf:
        raise UserError(f"{where}: from {start} s to {end} s is no stretch of time")
    return part


def in_frames(where: str, start: Any, end: Any) -> Stretch:
    """A part by its first frame, counted from 0, and the frame behind its last.

    Raises:
        UserError: they are no such numbers.
    """
    must = "start_frame and end_frame must be whole numbers"
    part = _numbers(where, start, end, must)
    if not (part.start.is_integer() and part.end.is_integer()):
        raise UserError(f"{where}: {must}, not {start!r} and {end!r}")
    if not 0 <= part.start < part.end:
        raise UserError(
            f"{where}: from frame {start} to {end} is no part: frames are counted from 0, and the "
            "end is the frame behind the last"
        )
    return part._replace(unit="frames")


def _numbers(where: str, start: Any, end: Any, must: str) -> Stretch:
    try:
        part = Stretch(float(start), float(end))
        if math.isfinite(part.start) and math.isfinite(part.end):
            return part
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where}: {must}, not {start!r} and {end!r}")


def unclassed_notes(labels: Coded, media: Media) -> list[str]:
    """A sentence on the labels that are no classes, where there are any."""
    counts = labels.counts()
    none = {label: count for label, count in counts.items()
            if label is None or label.lower() in NO_CLASS}  # fmt: skip
    total = sum(none.values())
    if not total:
        return []
    told = ", ".join(
        f"{count} {'empty' if label is None else repr(label)}" for label, count in none.items()
    )
    if total == len(labels):
        return [f"none of its {media.noun}s has a class: labels are {told}"]
    return [f"{total} of {len(labels)} {media.noun}s have no class: labels are {told}"]
