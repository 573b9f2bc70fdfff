"""Annotations of VOC's form: an XML file a picture, lists of pictures in `ImageSets/Main`."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.evaluation.boxes.annotations import (
    Account,
    Boxed,
    Things,
    on_the_picture,
    require_pictures,
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(folder: Path) -> bool:
    """Whether a folder, or a year in it, is laid out so."""
    return (folder / "Annotations").is_dir() or any(folder.glob("VOC*/Annotations"))


def read_voc(folder: Path, part: str, *, masks: bool) -> Boxed:
    """The pictures of a list.

    Corners are counted from 1 and the last column and row belong to the box, as VOC does. Difficult
    things are learned from; tests neither ask for them nor forbid them.

    Args:
        folder: of one or several years.
        part: a list of `ImageSets/Main`, after a year and `/` where there are several.
        masks: of no use.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    year, _, name = part.rpartition("/")
    root = folder / year
    lists = root / "ImageSets" / "Main"
    listed = lists / f"{name}.txt"
    if not listed.is_file():
        there = sorted(path.stem for path in lists.glob("*.txt"))
        years = "" if there else "; where there are several years, name one: VOC2007/trainval"
        raise UserError(f"{lists} has no list {name}.txt{did_you_mean(name, there)}{years}")
    # Lists of one class hold 1, 0 or -1 behind a name.
    stems = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line]
    if not stems:
        raise UserError(f"{listed} names no picture")
    pictures, every, account = {}, [], Account()
    names: list[str] = []
    for stem in stems:
        file = root / "Annotations" / f"{stem}.xml"
        if not file.is_file():
            raise UserError(f"{stem} is listed in {listed}, and {file} is not there")
        tree = _tree(file)
        pictures[_picture(root, stem, tree)] = stem
        every.append(_things(file, tree, names, account))
    require_pictures(pictures, str(listed))
    return Boxed(tuple(pictures), tuple(every), tuple(names), account.notes())


def _tree(file: Path) -> ElementTree.Element:
    text = file.read_bytes()
    if b"<!ENTITY" in text:
        raise UserError(f"{file} declares entities, which no annotation needs")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        said = "is empty" if not text.strip() else f"is no XML: {error}"
        raise UserError(f"{file} {said}") from error


def _picture(root: Path, stem: str, tree: ElementTree.Element) -> Path:
    """The file of the list's name; where there is none, the one that the annotation names."""
    usual = root / "JPEGImages" / f"{stem}.jpg"
    told = Path(tree.findtext("filename") or usual.name).name
    return usual if usual.is_file() else root / "JPEGImages" / told


def _things(file: Path, tree: ElementTree.Element, names: list[str], account: Account) -> Things:
    size = tuple(int(_number(file, tree, f"size/{side}", "0")) for side in ("height", "width"))
    boxes, classes, difficult = [], [], []
    for thing in tree.findall("object"):
        name = (thing.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{file} has an object without a name")
        x0, y0, x1, y1 = (_number(file, thing, f"bndbox/{corner}") for corner in _CORNERS)
        if x0 < x1 and y0 < y1:
            x0, y0 = x0 - 1, y0 - 1
        boxes.append((x0, y0, x1, y1))
        if name not in names:
            names.append(name)
        classes.append(names.index(name))
        difficult.append(thing.findtext("difficult", "0").strip() == "1")
    found, kept = on_the_picture(boxes, (size[0], size[1]), file.stem, account)
    unasked = np.array(difficult, bool)[kept]
    return Things(
        (size[0], size[1]),
        found,
        np.array(classes, np.int64)[kept],
        np.zeros_like(unasked),
        unasked,
    )


def _number(file: Path, place: ElementTree.Element, name: str, default: str | None = None) -> float:
    text = place.findtext(name, default)
    try:
        return float("" if text is None else text)
    except ValueError:
        said = "is missing" if text is None else f"is '{text}', no number"
        raise UserError(f"{file}: {name.replace('/', '.')} {said}") from None
