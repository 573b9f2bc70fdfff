"""Pictures of coloured squares on grey, with their boxes in the forms of VOC and COCO."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([(40, 60, 200), (50, 190, 60), (210, 50, 40)], np.uint8)
NAMES = ("blue", "green", "red")
Picture = tuple[tuple[int, int], list[tuple[int, tuple[int, int, int, int]]]]
"""Height and width; class and box of every square."""


def squares(count: int, seed: int = 0, size: tuple[int, int] = (48, 64)) -> list[Picture]:
    """Two or three squares a picture that do not touch; all classes come."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        height, width = size[0] + number % 2 * 8, size[1]
        told = []
        for place in range(3):
            side = int(rng.integers(width // 6, width // 3 - 4))
            left = place * width // 3 + int(rng.integers(1, width // 3 - side - 1))
            top = int(rng.integers(1, height - side - 1))
            told.append(((number + place) % 3, (left, top, left + side, top + side)))
        found.append(((height, width), told[: 2 + number % 2] if number else told))
    return found


def paint(picture: Picture, path: Path) -> None:
    """Write the picture."""
    (height, width), told = picture
    rng = np.random.default_rng(height * width)
    pixels = np.clip(rng.normal(128, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    for number, (x0, y0, x1, y1) in told:
        pixels[max(0, y0) : y1, max(0, x0) : x1] = COLOURS[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def voc(root: Path, parts: Mapping[str, Sequence[Picture]], *, difficult: bool = False) -> None:
    """A folder of VOC's form; `difficult` is the first square of every picture."""
    for folder in (root / "Annotations", root / "ImageSets" / "Main"):
        folder.mkdir(parents=True, exist_ok=True)
    for part, pictures in parts.items():
        stems = []
        for number, picture in enumerate(pictures):
            stem = f"{part}_{number}"
            paint(picture, root / "JPEGImages" / f"{stem}.jpg")
            (height, width), told = picture
            objects = "".join(
                f"<object><name>{NAMES[kind]}</name><difficult>{int(difficult and i == 0)}"
                f"</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
                f"<ymax>{y1}</ymax></bndbox></object>"
                if x0 < x1
                else f"<object><name>{NAMES[kind]}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
                f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for i, (kind, (x0, y0, x1, y1)) in enumerate(told)
            )
            text = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"{text}{objects}</annotation>")
            stems.append(stem)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(stems) + "\n")


def coco(
    file: Path,
    images: Path,
    pictures: Sequence[Picture],
    *,
    ids: tuple[int, int, int] = (1, 2, 3),
    crowd: bool = False,
) -> None:
    """A file of COCO's form; `crowd` is the first square of every picture."""
    told: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": ids[n], "name": name} for n, name in enumerate(NAMES)],
    }
    for number, picture in enumerate(pictures):
        name = f"{file.stem}_{number}.jpg"
        paint(picture, images / name)
        (height, width), things = picture
        told["images"].append(
            {"id": number + 5, "file_name": name, "height": height, "width": width}
        )
        for i, (kind, (x0, y0, x1, y1)) in enumerate(things):
            told["annotations"].append(
                {
                    "id": len(told["annotations"]) + 1,
                    "image_id": number + 5,
                    "category_id": ids[kind],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(crowd and i == 0),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))
