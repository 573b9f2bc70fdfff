"""Make the demo's pictures from the BCCD blood-cell photographs (MIT licence).

    python scripts/demo/prepare_blood_cells.py bccd.zip src/vistill/assets/blood_cells

`bccd.zip` holds the Pascal VOC layout of github.com/Shenggan/BCCD_Dataset. Written are
`photos.zip`, the photographs of the published training split at half size, for pre-training without
labels; and `cells.zip`, tiles of 64 pixels (128 in the original) from random places, labelled by
the rarest cells that the annotations show there. Training tiles come from the photographs of the
training split, test tiles from those of the validation and test splits.
"""

import io
import random
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from PIL import Image

TILE, SCALE = 64, 2
TRIES, PER_PHOTO = 400, 4


def boxes_of(xml: bytes) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Annotated objects that have an area: name and (left, top, right, bottom)."""
    found = []
    for item in ElementTree.fromstring(xml).iter("object"):
        box = item.find("bndbox")
        left, top, right, bottom = (
            float(box.findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")
        )
        if right > left and bottom > top:
            found.append((item.findtext("name"), (left, top, right, bottom)))
    return found


def inside(box, tile) -> float:
    """Area of the box that lies in the tile."""
    width = min(box[2], tile[2]) - max(box[0], tile[0])
    height = min(box[3], tile[3]) - max(box[1], tile[1])
    return max(width, 0) * max(height, 0)


def label_of(tile, boxes) -> str | None:
    """The rarest cells in the tile, or None where the annotations leave it open.

    Tiles without any box are left out: many red cells of this data set are not annotated.
    """
    share = {"WBC": 0.0, "Platelets": 0.0, "RBC": 0.0}
    for kind, box in boxes:
        area = (box[2] - box[0]) * (box[3] - box[1])
        share[kind] = max(share[kind], inside(box, tile) / area)
    if share["WBC"] > 0.4:
        return "white_cell"
    if share["WBC"] > 0:
        return None
    if share["Platelets"] == 1:
        return "platelet"
    if share["Platelets"] > 0:
        return None
    return "red_cells" if share["RBC"] > 0.6 else None


def tiles_of(size, boxes, rng) -> list[tuple[str, int, int]]:
    """Class, left and top (in half-size pixels) of the labelled tiles of one photograph."""
    chosen: dict[str, list[tuple[str, int, int]]] = {}
    for _ in range(TRIES):
        left = rng.randint(0, size[0] // SCALE - TILE)
        top = rng.randint(0, size[1] // SCALE - TILE)
        tile = tuple(SCALE * edge for edge in (left, top, left + TILE, top + TILE))
        label = label_of(tile, boxes)
        found = chosen.setdefault(label, [])
        apart = all(abs(left - x) + abs(top - y) > TILE // 3 for _, x, y in found)
        if label is not None and len(found) < PER_PHOTO and apart:
            found.append((label, left, top))
    return [tile for label in sorted(filter(None, chosen)) for tile in chosen[label]]


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Encoded without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def main(source: str, target: str) -> None:
    """Read the archive, write the two archives."""
    rng = random.Random(0)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    stored = zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(source) as archive,
        zipfile.ZipFile(folder / "photos.zip", "w", stored) as photos,
        zipfile.ZipFile(folder / "cells.zip", "w", stored) as cells,
    ):
        counts: dict[str, int] = {}
        for split, part in (("train", "train"), ("val", "test"), ("test", "test")):
            names = archive.read(f"BCCD/ImageSets/Main/{split}.txt").decode().split()
            for name in names:
                data = archive.read(f"BCCD/JPEGImages/{name}.jpg")
                image = Image.open(io.BytesIO(data)).convert("RGB")
                small = image.resize((image.width // SCALE, image.height // SCALE), Image.LANCZOS)
                if part == "train":
                    photos.writestr(zipfile.ZipInfo(f"{name}.jpg"), jpeg(small, 85))
                boxes = boxes_of(archive.read(f"BCCD/Annotations/{name}.xml"))
                for kind, left, top in tiles_of(image.size, boxes, rng):
                    number = counts.get(f"{part}/{kind}", 0)
                    counts[f"{part}/{kind}"] = number + 1
                    tile = small.crop((left, top, left + TILE, top + TILE))
                    cells.writestr(
                        zipfile.ZipInfo(f"{part}/{kind}/{number:04d}.jpg"), jpeg(tile, 85)
                    )
    print(counts)


if __name__ == "__main__":
    main(*sys.argv[1:])
