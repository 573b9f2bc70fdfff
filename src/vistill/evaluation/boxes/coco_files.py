"""Annotations of COCO's form: a `.json` file a part, with pictures, boxes and names of classes."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vistill.errors import UserError
from vistill.evaluation.boxes.annotations import (
    Account,
    Boxed,
    Things,
    on_the_picture,
    require_pictures,
)

_FILES = (
    "{part}.json",
    "annotations/instances_{part}.json",
    "annotations/instances_{part}2017.json",
    "annotations/{part}.json",
    "{part}/_annotations.coco.json",
    "{part}/annotations.json",
)


def read_coco(folder: Path, part: str, *, masks: bool) -> Boxed:
    """The pictures of a part.

    Crowds are not learned from; tests neither ask for them nor forbid them.

    Args:
        folder: of pictures and annotations.
        part: whose file is looked for in the usual places, or the name of a file.
        masks: keep the shapes.

    Raises:
        UserError: a file is missing or cannot be read, or shapes are asked for that are not there.
    """
    file = _file(folder, part)
    told = _loaded(file)
    categories = _entries(file, told, "categories", "id", "name")
    numbers = {one["id"]: number for number, one in enumerate(categories)}
    names = tuple(str(one["name"]) for one in categories)
    if len(set(names)) < len(names):
        raise UserError(f"{file} has two categories of the same name")
    images = _entries(file, told, "images", "id", "file_name")
    if not images:
        raise UserError(f"{file} names no picture")
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    known = {one["id"] for one in images}
    for one in _entries(file, told, "annotations", "image_id", "category_id", "bbox"):
        if one["category_id"] not in numbers:
            raise UserError(f"{file} has a box of category {one['category_id']}, which it lacks")
        if one["image_id"] not in known:
            raise UserError(f"{file} has a box on picture {one['image_id']}, which it lacks")
        of_image[one["image_id"]].append(one)
    root = _root(folder, file, part, str(images[0]["file_name"]))
    pictures, every, account = {}, [], Account()
    for image in images:
        path = root / str(image["file_name"])
        if path in pictures:
            raise UserError(f"{file} names the picture {image['file_name']} twice")
        pictures[path] = path.name
        every.append(_things(file, image, of_image[image["id"]], numbers, account, masks=masks))
    require_pictures(pictures, str(file))
    return Boxed(tuple(pictures), tuple(every), names, account.notes())


def _file(folder: Path, part: str) -> Path:
    tried = [folder / part] if part.endswith(".json") else [
        folder / name.format(part=part) for name in _FILES
    ]  # fmt: skip
    for path in tried:
        if path.is_file():
            return path
    shown = ", ".join(str(path.relative_to(folder)) for path in tried)
    raise UserError(
        f"{folder} has no annotations of the part '{part}': looked for {shown}, and for VOC's "
        "folder Annotations/; name parts in boxes.train and boxes.test"
    )


def _loaded(file: Path) -> dict[str, Any]:
    text = file.read_bytes()
    if not text.strip():
        raise UserError(f"{file} is empty")
    try:
        told = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from error
    if not isinstance(told, dict) or not {"images", "annotations", "categories"} <= told.keys():
        raise UserError(
            f"{file} is not of COCO's form, an object of images, annotations and categories"
        )
    return told


def _entries(file: Path, told: dict[str, Any], key: str, *fields: str) -> list[dict[str, Any]]:
    """A list of the file, each of whose entries has all of `fields`."""
    found = told[key]
    if not isinstance(found, list):
        raise UserError(f"{file}: {key} is no list")
    for number, one in enumerate(found):
        for name in fields:
            if not isinstance(one, dict) or name not in one:
                raise UserError(f"{file}: {key}[{number}] has no {name}")
    return found


def _root(folder: Path, file: Path, part: str, first: str) -> Path:
    """Where the pictures are that the file names."""
    tried = [folder / part, folder / f"{part}2017", folder / "images" / part, folder / "images"]
    tried += [folder, file.parent, file.parent / "images"]
    for place in dict.fromkeys(tried):
        if (place / first).is_file():
            return place
    shown = ", ".join(str(place) for place in dict.fromkeys(tried))
    raise UserError(f"{first}, which {file} names, is not there: looked in {shown}")


def _things(
    file: Path,
    image: dict[str, Any],
    told: list[dict[str, Any]],
    numbers: dict[Any, int],
    account: Account,
    *,
    masks: bool,
) -> Things:
    name = str(image["file_name"])
    boxes = [_corners(file, name, one["bbox"]) for one in told]
    size = (int(image.get("height") or 0), int(image.get("width") or 0))
    found, kept = on_the_picture(boxes, size, name, account)
    left = [one for one, yes in zip(told, kept, strict=True) if yes]
    crowds = np.array([bool(one.get("iscrowd")) for one in left], bool)
    shapes = [one.get("segmentation") for one in left]
    if masks and not all(shapes):
        raise UserError(
            f"boxes.masks needs the shape of every thing, and {file} has one on {name} without"
        )
    return Things(
        size,
        found,
        np.array([numbers[one["category_id"]] for one in left], np.int64),
        crowds,
        crowds,
        tuple(shapes) if masks else (),
    )


def _corners(file: Path, picture: str, box: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise UserError(
            f"{file}: the box {box!r} on {picture} is not [x, y, width, height]"
        ) from None
    return x, y, x + width, y + height
