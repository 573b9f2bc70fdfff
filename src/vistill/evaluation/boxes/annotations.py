"""Pictures with boxes, from annotations in the form of VOC or of COCO."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vistill.config.boxes import BoxesConfig
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError


@dataclass(frozen=True)
class Things:
    """What is on a picture.

    Attributes:
        size: height and width that the annotation says; zeros where it says none.
        boxes: x0, y0, x1, y1 in pixels.
        classes: positions in the list of names.
        apart: things that nothing is learned from and that tests neither ask for nor forbid: crowds
            of COCO. Of VOC's difficult ones, which are learned from, `unasked` alone is set.
        unasked: things that tests neither ask for nor forbid.
        shapes: outline of each, as COCO writes it; empty where there are none.
    """

    size: tuple[int, int]
    boxes: Float[np.ndarray, "k 4"]
    classes: Int[np.ndarray, " k"]
    apart: Bool[np.ndarray, " k"]
    unasked: Bool[np.ndarray, " k"]
    shapes: tuple[Any, ...] = ()

    def take(self, kept: Bool[np.ndarray, " k"]) -> "Things":
        """Some of them."""
        shapes = tuple(one for one, yes in zip(self.shapes, kept, strict=False) if yes)
        return Things(
            self.size,
            self.boxes[kept],
            self.classes[kept],
            self.apart[kept],
            self.unasked[kept],
            shapes,
        )


@dataclass(frozen=True)
class Boxed:
    """Pictures and what is on them.

    Attributes:
        pictures: files.
        things: of each picture, in the same order.
        classes: names.
        notes: what was changed or left out, in sentences.
    """

    pictures: tuple[Path, ...]
    things: tuple[Things, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def take(self, chosen: Sequence[int]) -> "Boxed":
        """Some of the pictures."""
        return replace(
            self,
            pictures=tuple(self.pictures[i] for i in chosen),
            things=tuple(self.things[i] for i in chosen),
        )


@dataclass
class Account:
    """Boxes that were cut or left out, to be told in one line."""

    boxes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, picture: str) -> None:
        """One more box of a kind."""
        self.kinds[what] += 1
        self.first.setdefault(what, picture)

    def notes(self) -> tuple[str, ...]:
        """One sentence, where there are any."""
        told = [
            f"{count} × {what} ({self.first[what]}{', …' * (count > 1)})"
            for what, count in self.kinds.items()
        ]
        return (f"of {self.boxes} boxes {'; '.join(told)}",) if told else ()


def find_boxed(folder: Path, options: BoxesConfig) -> tuple[Boxed, Boxed]:
    """The pictures to learn from and those to test on, whose classes are the same.

    Raises:
        UserError: a file is missing or says nothing, or the classes do not match.
    """
    from vistill.evaluation.boxes.coco_files import read_coco
    from vistill.evaluation.boxes.voc_files import is_voc, read_voc

    voc = is_voc(folder) if options.layout == "auto" else options.layout == "voc"
    if options.masks and voc:
        raise UserError(
            f"boxes.masks needs shapes, and {folder} has annotations of VOC's form, which hold "
            "boxes; give annotations of COCO's form"
        )
    found = []
    for setting, told in (("train", options.train), ("test", options.test)):
        parts = (told,) if isinstance(told, str) else told
        if not parts:
            raise UserError(f"boxes.{setting} names no part of {folder}")
        read = read_voc if voc else read_coco
        found.append(_joined([read(folder, part, masks=options.masks) for part in parts]))
    train, test = found
    if not any(len(things.boxes) for things in train.things):
        raise UserError(f"none of the {len(train.pictures)} pictures to learn from has a box")
    if not any(len(things.boxes) for things in test.things):
        raise UserError(f"none of the {len(test.pictures)} pictures to test on has a box")
    return _same_classes(train, test)


def _joined(parts: Sequence[Boxed]) -> Boxed:
    """Several parts as one, their classes by name."""
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    return Boxed(
        tuple(path for part in parts for path in part.pictures),
        tuple(things for part in parts for things in _numbered(part, names)),
        tuple(names),
        tuple(note for part in parts for note in part.notes),
    )


def _numbered(part: Boxed, names: Sequence[str]) -> list[Things]:
    """The things of `part` with their classes as positions in `names`."""
    table = np.array([names.index(name) for name in part.classes], np.int64)
    return [replace(things, classes=table[things.classes]) for things in part.things]


def _same_classes(train: Boxed, test: Boxed) -> tuple[Boxed, Boxed]:
    """Both with the classes that are learned.

    Raises:
        UserError: one is tested that is never learned.
    """
    learned = {number for things in train.things for number in things.classes[~things.apart]}
    tested = {number for things in test.things for number in things.classes}
    known = {train.classes[number] for number in learned}
    for name in sorted({test.classes[number] for number in tested} - known):
        raise UserError(
            f"the pictures to test on have boxes of the class '{name}', and those to learn from "
            f"have none{did_you_mean(name, known)}: there are {', '.join(sorted(known))}"
        )
    names = [name for name in train.classes if name in known]
    kept = []
    for part in (train, test):
        numbers = {number for number, name in enumerate(part.classes) if name in known}
        things = [one.take(np.isin(one.classes, list(numbers))) for one in part.things]
        table = np.array([names.index(n) if n in known else -1 for n in part.classes], np.int64)
        of_names = [replace(one, classes=table[one.classes]) for one in things]
        kept.append(replace(part, things=tuple(of_names), classes=tuple(names)))
    return kept[0], kept[1]


def on_the_picture(
    boxes: Sequence[tuple[float, float, float, float]],
    size: tuple[int, int],
    picture: str,
    account: Account,
) -> tuple[Float[np.ndarray, "k 4"], Bool[np.ndarray, " n"]]:
    """The parts of boxes that are on the picture, and which of them are there at all.

    Args:
        boxes: x0, y0, x1, y1 in pixels.
        size: height and width; zeros where nobody knows them, so that nothing is cut.
        picture: its name, for the account.
        account: gets what is cut or left out.
    """
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    account.boxes += len(given)
    height, width = (side or np.inf for side in size)
    cut = np.clip(given, 0, [width, height, width, height])
    kept = np.ones(len(given), bool)
    for number, (before, after) in enumerate(zip(given, cut, strict=True)):
        if not np.isfinite(before).all() or (before[2:] <= before[:2]).any():
            account.add("left out, as it has no area", picture)
        elif (after[2:] <= after[:2]).any():
            account.add("left out, as it is outside the picture", picture)
        else:
            if np.abs(before - after).max() > 1:
                account.add("cut to the picture", picture)
            continue
        kept[number] = False
    return cut[kept].astype(np.float32), kept


def require_pictures(paths: Mapping[Path, str], where: str) -> None:
    """
    Args:
        paths: files and the name of each in the annotation.
        where: they are said to be there.

    Raises:
        UserError: some are not.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        are = "are" if len(missing) > 1 else "is"
        raise UserError(f"{missing[0]}{more} {are} named in {where} and not there")
