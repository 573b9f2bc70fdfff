"""Pictures with masks in the layouts of VOC, ADE20K and plain folders: which mask belongs to which
picture, and what its numbers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistill.config.segmentation import SegmentationConfig
from vistill.config.suggest import did_you_mean
from vistill.data.folder import read_file
from vistill.data.names import NamePacker
from vistill.data.source import PICTURES, NamedSource
from vistill.errors import UserError

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip
_MASKS = (".png", ".bmp", ".gif", ".tif", ".tiff")
_ADE = 150


@dataclass(frozen=True)
class Pairs:
    """Pictures and their masks.

    Attributes:
        pictures, masks: files in the same order.
        classes: names, in the order of the numbers that `number_of` gives.
        number_of: class of every number in a mask; what is not there is not known.
        ignored: numbers of pixels that are left out.
    """

    pictures: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: tuple[str, ...]
    number_of: Mapping[int, int]
    ignored: frozenset[int]


class PairSource(NamedSource):
    """The pictures of `Pairs`, in their order."""

    def __init__(self, name: str, pictures: Sequence[Path]) -> None:
        packer = NamePacker()
        packer.add_all([str(path) for path in pictures])
        super().__init__(name, packer.names())

    def read(self, i: int) -> bytes:
        return read_file(self.names[i])

    def place(self, i: int) -> str:
        return self.names[i]


def find_pairs(folder: Path, options: SegmentationConfig, *, test: bool) -> Pairs:
    """The pictures to learn from, or to test on.

    Raises:
        UserError: there are none, one has no mask, or nobody tells the classes.
    """
    layout: str = options.layout
    if layout == "auto":
        layout = _layout_of(folder)
    part = options.test if test else options.train
    if layout == "voc":
        found = _voc(folder, part)
    elif layout == "ade20k":
        usual = {"train": "training", "val": "validation"}.get(part, part)
        found = _beside(folder / "images" / usual, folder / "annotations" / usual)
    else:
        found = _beside(*_folders(folder, part))
    names, numbers, ignored = _classes(folder, layout, options)
    return Pairs(tuple(found), tuple(found.values()), names, numbers, ignored)


def _layout_of(folder: Path) -> str:
    if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir():
        return "voc"
    if (folder / "images" / "training").is_dir() and (folder / "annotations").is_dir():
        return "ade20k"
    return "folders"


def _voc(folder: Path, part: str) -> dict[Path, Path]:
    lists = folder / "ImageSets" / "Segmentation"
    listed = lists / f"{part}.txt"
    if not listed.is_file():
        there = sorted(path.stem for path in lists.glob("*.txt"))
        raise UserError(f"{lists} has no list {part}.txt{did_you_mean(part, there)}")
    masks = folder / "SegmentationClassAug"
    if not (masks.is_dir() and "aug" in part):
        masks = folder / "SegmentationClass"
    found = {}
    for stem in listed.read_text(encoding="utf-8").split():
        stem = Path(stem).stem  # of trainaug some lists hold whole paths
        found[folder / "JPEGImages" / f"{stem}.jpg"] = masks / f"{stem}.png"
    for files in (found, found.values()):
        for path in files:
            if not path.is_file():
                raise UserError(f"{path} is listed in {listed} and is not there")
    return found


def _folders(folder: Path, part: str) -> tuple[Path, Path]:
    """Where pictures and masks of a part are."""
    tried = (
        (folder / part, folder / f"{part}annot"),
        (folder / part / "images", folder / part / "masks"),
        (folder / "images" / part, folder / "masks" / part),
        (folder / "images" / part, folder / "annotations" / part),
    )
    for pictures, masks in tried:
        if pictures.is_dir() and masks.is_dir():
            return pictures, masks
    shown = ", ".join(f"{a.relative_to(folder)}/ with {b.relative_to(folder)}/" for a, b in tried)
    raise UserError(
        f"{folder} has no folders of pictures and of masks of the part '{part}': looked for {shown}"
    )


def _beside(pictures: Path, masks: Path) -> dict[Path, Path]:
    """Every picture of a folder with the mask of its name."""
    for place in (pictures, masks):
        if not place.is_dir():
            raise UserError(f"{place} is no folder")
    stems = {
        path.relative_to(masks).with_suffix(""): path
        for path in sorted(masks.rglob("*"))
        if path.suffix.lower() in _MASKS
    }
    found = {}
    for path in sorted(pictures.rglob("*")):
        if path.is_file() and PICTURES.holds(path.name):
            mask = stems.get(path.relative_to(pictures).with_suffix(""))
            if mask is None:
                raise UserError(f"{path} has no mask in {masks}: looked for {path.stem}.png")
            found[path] = mask
    if not found:
        raise UserError(f"{pictures} has no pictures")
    return found


def _classes(
    folder: Path, layout: str, options: SegmentationConfig
) -> tuple[tuple[str, ...], dict[int, int], frozenset[int]]:
    """Names, the class of every number, and the numbers that are left out."""
    ignored = frozenset({options.ignore})
    told = options.classes
    file = folder / "classes.txt"
    if isinstance(told, str):
        file = Path(told)
        if not file.is_file():
            raise UserError(f"segmentation.classes={told} is no file with a class a line")
    names = told if isinstance(told, tuple) else _read(file) if file.is_file() else ()
    first = 1 if layout == "ade20k" else 0
    if layout == "ade20k":
        ignored |= {0}
        names = names or tuple(str(number) for number in range(1, _ADE + 1))
    elif layout == "voc":
        names = names or VOC_CLASSES
    if not names:
        raise UserError(
            f"the masks of {folder} hold numbers, and nothing tells the classes: write their names "
            f"to {folder / 'classes.txt'}, one a line from number 0 on, or give "
            "segmentation.classes=[road,car]"
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError("segmentation.classes has to name two classes or more, each once")
    numbers = [number for number in range(first, 256) if number not in ignored]
    if len(names) > len(numbers):
        raise UserError(f"{len(names)} classes are more than masks of 8 bits tell apart")
    return (
        names,
        dict(zip(range(first, first + len(names)), range(len(names)), strict=True)),
        ignored,
    )


def _read(file: Path) -> tuple[str, ...]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
