"""Lines of a list as arrays: what is plain is read in blocks, and only the rest line by line."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from vistill.data.columns import Row
from vistill.data.names import cut_out, different, have_ending
from vistill.data.source import Media
from vistill.errors import UserError

_BLOCK = 1 << 20
_FEW = 16
"""Up to one in so many lines that are not plain is read by itself; of more all lines are."""
NEWLINE, SPACE, TAB, QUOTE = b'\n \t"'
_PLAIN = (33, 126)
"""Letters at the ends of what is not stripped."""
_LONGEST = 1 << 17
"""Letters of a cell above which a table is not read."""


class Rows(NamedTuple):
    """Lines that tell a path and perhaps a label, and nothing else.

    Attributes:
        text: bytes of all paths.
        ends: where each of them ends there.
        labels: those that differ.
        codes: which of them each line tells.
    """

    text: UInt8[np.ndarray, " bytes"]
    ends: Int[np.ndarray, " k"]
    labels: list[str | None]
    codes: Int[np.ndarray, " k"]

    def one_by_one(self) -> Iterator[Row]:
        """The same as objects."""
        raw, start = self.text.tobytes(), 0
        for end, code in zip(self.ends.tolist(), self.codes.tolist(), strict=True):
            yield Row(os.fsdecode(raw[start:end]), self.labels[code])
            start = end


def each_row(rows: Iterable[Row | Rows]) -> Iterator[Row]:
    """One by one."""
    for row in rows:
        yield from row.one_by_one() if isinstance(row, Rows) else (row,)


class Lines(NamedTuple):
    """Lines of a file.

    Attributes:
        number: of the first of them in the file, from 1.
        text: bytes of all of them.
        starts, ends: of every line in `text`, without its end.
    """

    number: int
    text: UInt8[np.ndarray, " bytes"]
    starts: Int[np.ndarray, " k"]
    ends: Int[np.ndarray, " k"]

    def behind(self, number: int) -> "Lines":
        """Those behind line `number` of the file."""
        left = max(0, number + 1 - self.number)
        return Lines(self.number + left, self.text, self.starts[left:], self.ends[left:])

    def line(self, i: int) -> str:
        """Line `i` as text."""
        return self.text[self.starts[i] : self.ends[i]].tobytes().decode()


def lines(file: Path) -> Iterator[Lines]:
    """The lines of a text file in blocks.

    Raises:
        UserError: it cannot be read as text.
    """
    number, rest, first = 1, b"", True
    try:
        with open(file, "rb") as raw:
            while True:
                block = raw.read(_BLOCK)
                if first:
                    block, first = block.removeprefix(b"\xef\xbb\xbf"), False
                last = not block
                block = rest + block
                cut = len(block) if last else block.rfind(b"\n") + 1
                block, rest = block[:cut], block[cut:]
                if block:
                    found = _split(number, block)
                    yield found
                    number += len(found.starts)
                if last:
                    return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read as text: {error}") from error


def _split(number: int, block: bytes) -> Lines:
    if not block.isascii():
        block.decode()
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == NEWLINE)
    if not len(ends) or ends[-1] != len(text) - 1:
        ends = np.append(ends, len(text))
    return Lines(number, text, np.concatenate([[0], ends[:-1] + 1]), ends)


def holds(file: Path, letter: int) -> bool:
    """Whether a letter is anywhere in a file, or a line is longer than tables may have them."""
    sought = bytes([letter])
    return any(
        sought in found.text.tobytes() or int((found.ends - found.starts).max()) >= _LONGEST
        for found in lines(file)
    )


def plain_text(found: Lines, media: Media) -> tuple[Bool[np.ndarray, " k"], Rows]:
    """Which lines surely are a path, or a path, a space and a word that is its label; and what
    they say."""
    text, starts, ends = found.text, found.starts, found.ends
    fine = _bare(text, starts, ends) & (starts < ends)
    if (text == TAB).any():
        tabs = np.flatnonzero(text == TAB)
        fine &= np.searchsorted(tabs, starts) == np.searchsorted(tabs, ends)
    spaces = np.concatenate([[-1, -1], np.flatnonzero(text == SPACE)])
    nth = np.searchsorted(spaces, ends) - 1
    word, before = (np.maximum(spaces[n] + 1, starts) for n in (nth, np.maximum(nth - 1, 0)))
    path = fine & have_ending(text, word, ends, media.suffixes)
    break_at = np.where(path, ends, np.maximum(word - 1, starts))
    label = fine & ~path & (word > starts)
    label &= have_ending(text, np.minimum(before, break_at), break_at, media.suffixes)
    # What only may be a path is looked at by itself.
    dots = np.append(np.flatnonzero(text == ord(".")), len(text))
    label &= dots[np.searchsorted(dots, word)] >= ends
    good = path | label
    return good, _rows(found, good, starts, break_at, np.where(label, word, ends), ends)


def plain_cells(
    found: Lines, separator: int, columns: int, path: int, label: int | None
) -> tuple[Bool[np.ndarray, " k"], Rows]:
    """Which lines of a table without quotes have the right number of cells, with a path; and what
    they say."""
    text, starts, ends = found.text, found.starts, found.ends
    where = np.flatnonzero(text == separator)
    nth = np.searchsorted(where, starts)
    fine = (np.searchsorted(where, ends) - nth == columns - 1) & (starts < ends)
    where = np.append(where, [len(text)] * columns)
    nth = np.minimum(nth, len(where) - columns)

    def cell(number: int) -> tuple[np.ndarray, np.ndarray]:
        left = starts if number == 0 else where[nth + number - 1] + 1
        right = ends if number == columns - 1 else where[nth + number]
        return np.where(fine, left, starts), np.where(fine, right, starts)

    first, last = cell(path)
    fine &= (first < last) & _bare(text, first, last)
    told, over = (ends, ends) if label is None else cell(label)
    fine &= _bare(text, told, over)
    return fine, _rows(found, fine, first, last, told, over)


def _bare(
    text: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " k"], ends: Int[np.ndarray, " k"]
) -> Bool[np.ndarray, " k"]:
    """Which stretches have nothing at their ends that is stripped, or are empty."""
    found = np.ones(len(starts), bool)
    for place in (starts, ends - 1):
        letter = text[np.clip(place, 0, len(text) - 1)]
        found &= (letter >= _PLAIN[0]) & (letter <= _PLAIN[1])
    return found | (starts >= ends)


def _rows(
    found: Lines,
    good: Bool[np.ndarray, " k"],
    starts: Int[np.ndarray, " k"],
    ends: Int[np.ndarray, " k"],
    told: Int[np.ndarray, " k"],
    over: Int[np.ndarray, " k"],
) -> Rows:
    """The good lines: paths from `starts` to `ends`, labels from `told` to `over`."""
    starts, ends, told, over = starts[good], ends[good], told[good], over[good]
    labels, codes = different(found.text, told, over)
    return Rows(
        *cut_out(found.text, starts, ends), [label.decode() or None for label in labels], codes
    )


def rows_of(
    found: Lines,
    plain: tuple[Bool[np.ndarray, " k"], Rows],
    read: Callable[[int, str], Row | None],
) -> Iterator[Row | Rows]:
    """The rows of some lines in order.

    Args:
        found: the lines.
        plain: which of them need not be read by themselves, and what those say.
        read: a row from the number of a line and its text; None: it is empty.
    """
    good, rows = plain
    if not sys.getfilesystemencoding().lower().startswith("utf"):
        good = np.zeros_like(good)
    others = np.flatnonzero(~good & (found.starts < found.ends))
    if len(others) * _FEW > len(good):
        for i in range(len(good)):
            row = read(found.number + i, found.line(i))
            if row is not None:
                yield row
        return
    before = good.cumsum()
    done = 0
    for i in [*others.tolist(), len(good)]:
        upto = int(before[i - 1]) if i else 0
        if upto > done:
            offset = int(rows.ends[done - 1]) if done else 0
            yield Rows(
                rows.text[offset : rows.ends[upto - 1]],
                rows.ends[done:upto] - offset,
                rows.labels,
                rows.codes[done:upto],
            )
            done = upto
        if i < len(good):
            row = read(found.number + i, found.line(i))
            if row is not None:
                yield row
