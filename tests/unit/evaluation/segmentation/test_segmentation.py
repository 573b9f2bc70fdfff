"""Segmentation of small pictures whose classes are colours: layouts, mistakes, training, tests."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vistill.config.evaluation import EvaluateConfig
from vistill.config.segmentation import SEGMENTATION_RECIPES, SegmentationConfig
from vistill.errors import UserError
from vistill.evaluation.segmentation.crops import (
    IGNORED,
    PairDecoder,
    TrainCrop,
    require_masks,
    turned,
)
from vistill.evaluation.segmentation.layouts import PairSource, find_pairs
from vistill.evaluation.segmentation.scores import counts_of, segmentation_figures
from vistill.evaluation.segmentation.segment import evaluate_segmentation
from vistill.evaluation.segmentation.segmenter import build_segmenter
from vistill.evaluation.segmentation.sliding import slide
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.build import create_backbone
from vistill.models.maps import FeatureMaps, with_relative_bias
from vistill.models.vit import VisionTransformer

COLOURS = np.array([(40, 60, 200), (50, 190, 60), (210, 50, 40)], np.uint8)
NAMES = ("blue", "green", "red")


def picture(rng: np.random.Generator, height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """Two rectangles on a ground, and the numbers of their colours."""
    numbers = np.zeros((height, width), np.uint8)
    for colour in (1, 2):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        numbers[top : top + height // 2, left : left + width // 2] = colour
    noise = rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(np.clip(COLOURS[numbers] + noise, 0, 255).astype(np.uint8)), numbers


def write(images: Path, masks: Path, count: int, *, palette: bool = False, shift: int = 0) -> None:
    rng = np.random.default_rng(count)
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, values = picture(rng, 24, 32 + 8 * (number % 2))
        image.save(images / f"{number}.jpg", quality=95)
        mask = Image.fromarray(values + np.uint8(shift))
        if palette:
            mask = mask.convert("P")
            mask = Image.fromarray(values + np.uint8(shift), mode="P")
            mask.putpalette(COLOURS.flatten().tolist())
        mask.save(masks / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("masks")
    write(root / "train", root / "trainannot", 12)
    write(root / "val", root / "valannot", 5, palette=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def vit(size: int = 16, depth: int = 2) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=size, patch_size=8, embed_dim=24, depth=depth, num_heads=3
    ).eval()


def opened(folder: Path, options: SegmentationConfig):
    parts = [find_pairs(folder, options, test=test) for test in (False, True)]
    for pairs in parts:
        require_masks(pairs)
    return [(PairSource(str(folder), pairs.pictures), pairs) for pairs in parts]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["uper", "linear"])
def test_colours_are_learned(folder, head):
    options = SegmentationConfig(
        head=head, channels=16, crop=16, epochs=1, min_steps=60, global_batch_size=6, lr=3e-3,
        distort=False, layer_decay=1.0, scale=(0.8, 1.5),
    )  # fmt: skip
    train, test = opened(folder, options)
    config = EvaluateConfig(device="cpu", workers=0, segmentation=options)
    model = vit()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (score,) = evaluate_segmentation(model, train, test, config, progress=False)
    assert set(score.iou) == set(NAMES)
    assert (score.pictures, score.broken) == (5, ())
    assert score.pixel_accuracy.value > 70
    assert score.mean_iou.low <= score.mean_iou.value <= score.mean_iou.high
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("layout", ["folders", "voc", "ade20k"])
def test_layouts(tmp_path, layout):
    told = {"classes": NAMES}
    if layout == "voc":
        write(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", 3, palette=True)
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("0\n2\n")
        told = {}
    elif layout == "ade20k":
        write(tmp_path / "images" / "training", tmp_path / "annotations" / "training", 3, shift=1)
        told = {}
    else:
        write(tmp_path / "images" / "train", tmp_path / "masks" / "train", 3)
    pairs = find_pairs(tmp_path, SegmentationConfig(**told), test=False)
    assert [path.stem for path in pairs.masks] == [path.stem for path in pairs.pictures]
    assert len(pairs.pictures) == (2 if layout == "voc" else 3)
    assert len(pairs.classes) == {"folders": 3, "voc": 21, "ade20k": 150}[layout]
    require_masks(pairs)
    both = PairDecoder(pairs)(PairSource("here", pairs.pictures), 0, np.random.default_rng(0))
    assert both.shape[0] == 4
    assert both[3].unique().tolist() == [0, 1, 2]
    assert (
        both[:3, both[3] == 2].float().mean(dim=1) - torch.tensor([210, 50, 40])
    ).abs().max() < 30


def broken(root: Path, name: str, tmp_path: Path) -> tuple[Path, dict]:
    """A copy of the folder with one thing wrong, and settings."""
    there = tmp_path / "data"
    shutil.copytree(root, there)
    mask = there / "trainannot" / "3.png"
    if name == "no classes":
        (there / "classes.txt").unlink()
    elif name == "size":
        Image.open(mask).resize((9, 7)).save(mask)
    elif name == "number":
        Image.fromarray(np.full((24, 40), 7, np.uint8)).save(mask)
    elif name == "missing":
        mask.unlink()
    elif name == "colour":
        Image.open(mask).convert("RGB").save(mask)
    elif name == "empty":
        shutil.rmtree(there / "train")
        (there / "train").mkdir()
    return there, {"part": {"train": "trian"}}.get(name, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no classes", "nothing tells the classes: write their names to .*classes.txt"),
        ("size", r"3.jpg: its mask 3.png is 9×7 pixels and the picture 40×24"),
        ("number", "3.png holds the number 7, and there are 3 classes, 0 to 2; .*ignore=7"),
        ("missing", r"3.jpg has no mask in .*trainannot: looked for 3.png"),
        ("colour", "3.png is a picture in colour; masks hold numbers of classes"),
        ("empty", "train has no pictures"),
        ("part", "no folders of pictures and of masks of the part 'trian'"),
    ],
)
def test_mistakes(folder, tmp_path, name, message):
    there, given = broken(folder, name, tmp_path)
    with pytest.raises(UserError, match=message):
        require_masks(find_pairs(there, SegmentationConfig(**given), test=False))


def test_a_picture_moves_with_its_mask(folder):
    options = SegmentationConfig(rotate=20.0, distort=False, blur=0.0, crop=16)
    (source, pairs), _ = opened(folder, options)
    decode, crop = PairDecoder(pairs), TrainCrop(options, 16)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        both = crop(decode(source, seed, rng), rng)
        assert both.shape == (4, 16, 16)
        known = both[3] != IGNORED
        nearest = (both[:3, :, :, None].float() - torch.from_numpy(COLOURS.T)[:, None, None]).pow(2)
        right = nearest.sum(dim=0).argmin(dim=-1)[known] == both[3][known]
        assert right.float().mean() > 0.85
        again = crop(decode(source, seed, np.random.default_rng(seed)), np.random.default_rng(seed))
        assert again.shape == both.shape
    still = decode(source, 0, np.random.default_rng(0))
    assert torch.equal(turned(still, 0.0), still)


def test_figures_by_hand():
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]])
    found = np.array([[0, 1, 1, 1], [2, 0, 0, 1]])
    counts = counts_of(found, truth, 4, 255)
    assert counts.tolist() == [[1, 2, 1, 0], [2, 2, 2, 0], [2, 3, 1, 0]]
    mean_iou, pixels, mean, iou = segmentation_figures(counts[None], ["a", "b", "c", "d"])
    assert iou == pytest.approx({"a": 1 / 3, "b": 2 / 3, "c": 1 / 2})
    assert mean_iou == pytest.approx((50.0,) * 3)
    assert pixels.value == pytest.approx(100 * 4 / 6)
    assert mean.value == pytest.approx(100 * (1 / 2 + 1 + 1 / 2) / 3)
    several = np.stack([counts, counts_of(truth, truth, 4, 255)])
    low_high = segmentation_figures(several, ["a", "b", "c", "d"])[0]
    assert pytest.approx(low_high.low) == 50
    assert pytest.approx(low_high.high) == 100


def test_pictures_smaller_than_the_window():
    image = torch.rand(1, 3, 5, 21)
    found = slide(image, (8, 8), (5, 5), lambda some: some)
    torch.testing.assert_close(found, image)


@pytest.mark.slow
def test_maps_of_other_backbones():
    cnn = create_backbone("torchvision/resnet18", image_size=64)
    maps = FeatureMaps(cnn)
    assert (maps.widths, maps.plain) == ([64, 128, 256, 512], False)
    found = maps(torch.rand(1, 3, 64, 64))
    assert [one.shape[-1] for one in found] == [16, 8, 4, 2]
    layers = [cnn.module.layer1, cnn.module.layer2, cnn.module.layer3, cnn.module.layer4]
    assert maps.parts == layers
    swin = create_backbone("swinv2_tiny", image_size=256)
    maps = FeatureMaps(swin)
    assert (maps.widths, maps.plain) == ([96, 192, 384, 768], False)
    assert maps.blocks == [2, 4, 10, 12]
    own = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, 6, 2, 2), nn.AdaptiveAvgPool2d(1)
    )
    assert FeatureMaps(PooledBackbone(own, image_size=32)).widths == [4, 6]


def test_the_bias_of_the_recipe_starts_without_effect():
    plain = vit()
    biased = with_relative_bias(plain)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(biased.eval()(images), plain(images))
    with pytest.raises(UserError, match="without one"):
        with_relative_bias(biased)
    two = VisionTransformer(
        image_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, distillation_token=True
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(with_relative_bias(two).eval()(images), two(images))


def test_a_crop_that_does_not_suit():
    with pytest.raises(UserError, match=r"^segmentation.crop=20 does not suit .*; segmentation.cr"):
        build_segmenter(vit(), 3, SegmentationConfig(channels=8), 20, 0)


def test_wide_maps_are_of_plain_vits():
    options = SegmentationConfig(wide=True, channels=8)
    with pytest.raises(UserError, match=r"segmentation.wide is for plain ViTs, and .* has maps of"):
        build_segmenter(create_backbone("torchvision/resnet18", image_size=64), 3, options, 64, 0)


@pytest.mark.parametrize("recipe", SEGMENTATION_RECIPES)
def test_every_recipe_builds(recipe):
    options = SegmentationConfig(recipe=recipe)
    if recipe.startswith("kdep"):
        backbone = create_backbone("torchvision/resnet18", image_size=64)
        made = build_segmenter(backbone, 3, options, 64, seed=0)
        scales = {group["lr_scale"] for group in made.groups()}
        assert scales == {1.0, 10.0}
        return
    narrow = options.model_copy(update={"channels": 8})
    made = build_segmenter(vit(depth=3), 3, narrow, 16, seed=0)
    assert made.scores(torch.rand(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    assert (made.student.blocks[0].attn.rel_pos_bias is not None) == options.relative_bias
