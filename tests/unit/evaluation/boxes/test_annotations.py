"""Boxes around squares, told in every form: the same is read of all, and mistakes are told."""

import json
import shutil

import numpy as np
import pytest
from squares import NAMES, coco, squares, voc

from vistill.config.boxes import BoxesConfig
from vistill.errors import UserError
from vistill.evaluation.boxes.annotations import find_boxed


def layout(root, name: str) -> BoxesConfig:
    """Two parts of pictures in a layout, and the settings that find them."""
    train, test = squares(4, seed=0), squares(3, seed=1)
    if name == "voc":
        voc(root, {"train": train, "val": test})
        return BoxesConfig()
    if name == "voc years":
        voc(root / "VOC2007", {"trainval": train[:2], "test": test})
        voc(root / "VOC2012", {"trainval": train[2:]})
        return BoxesConfig(train=("VOC2007/trainval", "VOC2012/trainval"), test="VOC2007/test")
    files, pictures = {
        "coco": ("annotations/instances_{}2017.json", "{}2017"),
        "roboflow": ("{}/_annotations.coco.json", "{}"),
        "flat": ("{}.json", "images"),
        "named": ("labels/{}.json", "images"),
    }[name]
    for part, some in (("train", train), ("val", test)):
        coco(root / files.format(part), root / pictures.format(part), some, ids=(7, 3, 90))
    told = {"train": "labels/train.json", "test": "labels/val.json"} if name == "named" else {}
    return BoxesConfig(masks=name != "flat", **told)


@pytest.mark.parametrize("name", ["voc", "voc years", "coco", "roboflow", "flat", "named"])
def test_layouts(tmp_path, name):
    options = layout(tmp_path, name)
    for found, truth in zip(
        find_boxed(tmp_path, options), (squares(4, seed=0), squares(3, seed=1)), strict=True
    ):
        assert set(found.classes) == set(NAMES)
        assert not found.notes
        assert len(found.pictures) == len(truth)
        for things, (size, told) in zip(found.things, truth, strict=True):
            assert things.size == size
            by_name = [
                (found.classes[number], tuple(box))
                for number, box in zip(things.classes, things.boxes.tolist(), strict=True)
            ]
            assert by_name == [(NAMES[number], tuple(map(float, box))) for number, box in told]
            assert len(things.shapes) == (len(told) if options.masks else 0)


def changed(root, name: str) -> dict:
    """A folder of COCO's form, or VOC's, with one thing wrong; and settings."""
    file = root / "train.json"
    if name.startswith("voc"):
        voc(root, {"train": squares(3), "val": squares(2, seed=1)})
        first = sorted((root / "Annotations").glob("train*.xml"))[0]
        if name == "voc no annotation":
            first.unlink()
        elif name == "voc no picture":
            (root / "JPEGImages" / f"{first.stem}.jpg").unlink()
        elif name == "voc empty":
            first.write_text("")
        elif name == "voc number":
            first.write_text(first.read_text().replace("<xmin>", "<xmin>left ", 1))
        elif name == "voc list":
            (root / "ImageSets" / "Main" / "train.txt").write_text("")
        elif name == "voc class":
            second = sorted((root / "Annotations").glob("val*.xml"))[0]
            second.write_text(second.read_text().replace("<name>blue", "<name>bluw"))
        elif name == "voc entity":
            first.write_text("<!DOCTYPE a [<!ENTITY a 'b'>]><annotation>&a;</annotation>")
        return {"voc part": {"train": "trian"}, "voc masks": {"masks": True}}.get(name, {})
    for part, seed in (("train", 0), ("val", 1)):
        coco(root / f"{part}.json", root / "images", squares(3, seed=seed))
    told = json.loads(file.read_text())
    if name == "empty":
        file.write_text("")
        return {}
    if name == "no json":
        file.write_text("{")
        return {}
    if name == "no boxes":
        told["annotations"] = []
    elif name == "no pictures":
        told["images"] = told["annotations"] = []
    elif name == "form":
        told = [told]
    elif name == "picture":
        (root / "images" / told["images"][1]["file_name"]).unlink()
    elif name == "pictures":
        shutil.rmtree(root / "images")
    elif name == "category":
        told["annotations"][0]["category_id"] = 99
    elif name == "field":
        del told["annotations"][2]["bbox"]
    elif name == "box":
        told["annotations"][0]["bbox"] = [1, 2, 3]
    elif name == "shape":
        del told["annotations"][0]["segmentation"]
    elif name == "classes":
        other = root / "val.json"
        other.write_text(other.read_text().replace('"green"', '"gren"'))
    file.write_text(json.dumps(told))
    return {"part": {"test": "tset"}, "shape": {"masks": True}}.get(name, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "train.json is empty$"),
        ("no json", "train.json is no JSON: "),
        ("no boxes", "none of the 3 pictures to learn from has a box"),
        ("no pictures", "train.json names no picture"),
        ("form", "train.json is not of COCO's form, an object of images, annotations and categor"),
        ("picture", "1.jpg is named in .*train.json and not there"),
        ("pictures", "0.jpg, which .*train.json names, is not there: looked in .*images"),
        ("category", "has a box of category 99, which it lacks"),
        ("field", r"annotations\[2\] has no bbox"),
        ("box", r"the box \[1, 2, 3\] on .*0.jpg is not \[x, y, width, height\]"),
        ("shape", "boxes.masks needs the shape of every thing, and .* one on .*0.jpg without"),
        ("classes", "the class 'gren', and those to learn from have none; did you mean 'green'"),
        ("part", "no annotations of the part 'tset': looked for tset.json, annotations/inst"),
        ("voc no annotation", "train_0 is listed in .*train.txt, and .*train_0.xml is not there"),
        ("voc no picture", "train_0.jpg is named in .*train.txt and not there"),
        ("voc empty", "train_0.xml is empty"),
        ("voc number", "train_0.xml: bndbox.xmin is 'left .*', no number"),
        ("voc list", "train.txt names no picture"),
        ("voc class", "class 'bluw', and those to learn from have none; did you mean 'blue'"),
        ("voc entity", "train_0.xml declares entities"),
        ("voc part", "has no list trian.txt; did you mean 'train'"),
        ("voc masks", "boxes.masks needs shapes, and .* VOC's form, which hold boxes"),
    ],
)
def test_mistakes(tmp_path, name, message):
    given = changed(tmp_path, name)
    with pytest.raises(UserError, match=message) as caught:
        find_boxed(tmp_path, BoxesConfig(**given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_odd_boxes_are_counted(tmp_path, form):
    size, good = (40, 60), (5, 6, 25, 26)
    odd = [(7, 7, 7, 20), (30, 9, 20, 12), (70, 5, 90, 20), (50, 30, 80, 60)]
    pictures = [(size, [(0, box) for box in (good, *odd)]), (size, [])]
    if form == "voc":
        voc(tmp_path, {"train": pictures, "val": squares(2)})
    else:
        coco(tmp_path / "train.json", tmp_path / "images", pictures)
        coco(tmp_path / "val.json", tmp_path / "images", squares(2, seed=1))
    if form == "voc":
        with pytest.raises(UserError, match="boxes of the class 'green'"):
            find_boxed(tmp_path, BoxesConfig())
        voc(tmp_path, {"train": [*pictures, *squares(2)], "val": squares(2)})
    else:
        coco(tmp_path / "train.json", tmp_path / "images", [*pictures, *squares(2)])
    train, _ = find_boxed(tmp_path, BoxesConfig())
    assert train.things[0].boxes.tolist() == [list(good), [50, 30, 60, 40]]
    assert train.things[1].boxes.shape == (0, 4)
    (note,) = train.notes
    for said in ("2 × left out, as it has no area", "1 × left out, as it is outside", "1 × cut to"):
        assert said in note


def test_crowds_and_difficult_things(tmp_path):
    for part in ("train", "val"):
        coco(tmp_path / f"{part}.json", tmp_path / "images", squares(3), crowd=True)
    train, _ = find_boxed(tmp_path, BoxesConfig())
    assert train.things[0].apart.tolist() == train.things[0].unasked.tolist()
    assert train.things[0].apart[0]
    assert not train.things[0].apart[1:].any()
    voc(tmp_path / "v", {part: squares(3) for part in ("train", "val")}, difficult=True)
    train, _ = find_boxed(tmp_path / "v", BoxesConfig())
    assert train.things[0].unasked[0]
    assert not np.concatenate([things.apart for things in train.things]).any()
