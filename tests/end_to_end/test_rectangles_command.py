"""Inputs that are wider than high (or the reverse), from a folder to predictions and exports."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command_line import CELLS, MAE
from safetensors.torch import load_file

import vistill
from vistill.cli import main
from vistill.config.yaml12 import load_yaml
from vistill.data import EvalTransform, decode_image, open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.transforms import VideoTestTransform
from vistill.errors import UserError
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.vit import VisionTransformer

TRAIN = ["data.workers=0", "data.held_out=0.2", "train.global_batch_size=8", "train.epochs=1",
         "train.device=cpu", "optim.warmup_epochs=0"]  # fmt: skip
SMALL = ["student.model=vit", "student.embed_dim=24", "student.depth=2", "student.num_heads=2"]
QUICK = ["workers=0", "device=cpu"]


def vistill_says(capsys: pytest.CaptureFixture[str], *words: object, expect: int = 0) -> str:
    """What `vistill WORDS...` prints."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert code == expect, said
    return said.out + said.err


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MAE on pictures 64 high and 96 wide."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    words = ["pretrain", "mae", "--data", CELLS / "train", "--out", out, *MAE, *TRAIN,
             "data.image_size=[64,96]", "train.knn_probe=false"]  # fmt: skip
    words = [w for w in words if w not in ("data.image_size=32",)]
    assert main([str(word) for word in dict.fromkeys(words)]) == 0
    return out


@pytest.fixture(scope="module")
def run(teacher: Path) -> Path:
    """A student of it, 48 high and 72 wide, with patches of another size."""
    out = teacher.parent / "run"
    words = ["pretrain", "tinymim", "--data", CELLS / "train", "--out", out, *SMALL, *TRAIN,
             f"teacher=run:{teacher}", "teacher.image_size=[64,96]", "student.patch_size=6",
             "data.image_size=[48,72]", "method.relation.heads=3"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return out


def seen(size: tuple[int, int], folder: Path) -> torch.Tensor:
    """All pictures of a folder in a test's view, in [0, 1], in the order of their names."""
    source = open_source(str(folder))
    pictures = [decode_image(source.read(n)) for n in range(len(source))]
    return torch.stack([EvalTransform(size)(picture) for picture in pictures]).float() / 255


@torch.no_grad()
def feature(backbone: Any, pixels: torch.Tensor) -> torch.Tensor:
    return backbone.pooled(backbone.normalization(pixels))


def test_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_yaml((run / "config.yaml").read_text(), "config.yaml")
    assert settings["data"]["image_size"] == [48, 72]
    told = json.loads((run / "export/best/model.json").read_text())
    assert told["image_size"] == [48, 72]
    backbone: Any = vistill.load_backbone(run)
    assert backbone.image_size == (48, 72)
    assert backbone.grid == (8, 12)
    pixels = seen((48, 72), CELLS / "test")
    expected = feature(backbone, pixels)
    embed = ["embed", run, "--data", CELLS / "test", *QUICK]
    vistill_says(capsys, *embed, "--out", tmp_path / "f.npy")
    found = torch.from_numpy(np.load(tmp_path / "f.npy"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    vistill_says(capsys, "export", run, "--out", tmp_path / "timm")
    told = json.loads((tmp_path / "timm/model.json").read_text())
    assert told["timm"]["img_size"] == [48, 72]
    theirs = timm.create_model(**told["timm"]).eval()
    theirs.load_state_dict(load_file(tmp_path / "timm/model.safetensors"), strict=True)
    with torch.no_grad():
        measured = theirs(backbone.normalization(pixels))
    torch.testing.assert_close(measured, expected, atol=1e-5, rtol=1e-4)

    # At another height and width, every table follows.
    vistill_says(capsys, *embed, "--out", tmp_path / "g.npy", "image_size=[72,36]")
    other: Any = vistill.load_backbone(run, image_size=(72, 36))
    assert other.grid == (12, 6)
    expected = feature(other, seen((72, 36), CELLS / "test"))
    found = torch.from_numpy(np.load(tmp_path / "g.npy"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    again = vistill_says(capsys, "pretrain", run / "config.yaml", "--out", run)
    assert "finished" in again


def test_evaluation_and_classifier(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    vistill_says(
        capsys, "evaluate", run, "--data", CELLS / "train", "--test", CELLS / "test",
        "--protocols", "knn,linear,finetune", "--out", scores, *QUICK, "linear.epochs=5",
        "image_size=[36,60]", "finetune.epochs=1", "finetune.random_erasing=0.5",
        "finetune.cutmix=1.0", "finetune.rand_augment=rand-m9",
        f"finetune.keep={tmp_path / 'kept'}",
    )  # fmt: skip
    assert json.loads(scores.read_text())["config"]["image_size"] == [36, 60]
    kept = tmp_path / "kept/labels-1-seed-0"
    classifier = vistill.load_classifier(kept)
    assert classifier.backbone.image_size == (36, 60)
    out = tmp_path / "found.csv"
    vistill_says(capsys, "predict", kept, "--data", CELLS / "test", "--out", out, *QUICK)
    with torch.no_grad():
        expected = classifier(seen((36, 60), CELLS / "test")).softmax(1).max(1).values
    with out.open(newline="") as file:
        found = [float(row["probability_1"]) for row in csv.DictReader(file)]
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    said = vistill_says(capsys, "evaluate", kept, "--data", CELLS / "test", "--protocols", "test",
                        *QUICK)  # fmt: skip
    assert "test" in said
    vistill_says(capsys, "export", kept, "--out", tmp_path / "timm")
    told = json.loads((tmp_path / "timm/model.json").read_text())
    assert told["timm"]["img_size"] == [36, 60]


@pytest.mark.slow
def test_onnx(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    vistill_says(capsys, "export", run, "--out", tmp_path, "--format", "onnx")
    told = json.loads((tmp_path / "onnx.json").read_text())
    assert told["input"]["pixels"] == ["batch", 3, 48, 72]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    pixels = seen((48, 72), CELLS / "test")
    backbone = vistill.load_backbone(run)
    expected = feature(backbone, pixels).numpy()
    _, pooled = session.run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(pooled, expected, atol=1e-4 * np.abs(expected).max())


def test_a_cache_of_the_teacher(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "feature_distillation", "--data", CELLS / "train", *SMALL, *TRAIN,
             f"teacher=run:{teacher}", "student.patch_size=8", f"cache={tmp_path / 'cache'}",
             "train.knn_probe=false"]  # fmt: skip
    size = "data.image_size=[64,96]"
    said = vistill_says(capsys, *words, size, "--out", tmp_path / "one", "cache.views=1")
    assert "0 of 27 records" in said
    said = vistill_says(capsys, *words, size, "--out", tmp_path / "two", "cache.views=1")
    assert "21 of 27 records" in said  # an epoch of two batches of 8, and those held out
    said = vistill_says(capsys, *words, "data.image_size=[96,64]", "teacher.image_size=[64,96]",
                        "method.resize_map=true", "--out", tmp_path / "three", "cache.views=1",
                        expect=2)  # fmt: skip
    assert "was made for another transform" in said
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.image_size=[48,70]"], "[48,70] pixels are no multiple of the patch size 6; "
         "[48,72] or [48,66] would do"),
        (["data.image_size=48x72"], "did you mean [48,72]?"),
        (["teacher.image_size=[96,64]"], "in grids of 8x12 and 12x8 (rows x columns)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    words: list[str], message: str, teacher: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sizes = {"data.image_size": "[48,72]", "teacher.image_size": "[64,96]"}
    sizes |= dict(word.split("=") for word in words)
    said = vistill_says(
        capsys, "pretrain", "tinymim", "--data", CELLS / "train", "--out", tmp_path / "r", *SMALL,
        *TRAIN, f"teacher=run:{teacher}", "student.patch_size=6", "method.relation.heads=3",
        *(f"{key}={value}" for key, value in sizes.items()), expect=2,
    )  # fmt: skip
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize("device_crop", [False, True])
def test_clips(device_crop: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    write_motion_clips(open_source(str(CELLS / "train")), clips, count=16, frames=10, size=56)
    run, words = tmp_path / "run", [*SMALL, *TRAIN, "train.global_batch_size=4"]
    words.remove("train.global_batch_size=8")
    said = vistill_says(
        capsys, "pretrain", "videomae", "--data", clips, "--out", run, *words, "data.frames=4",
        "data.stride=2", "data.image_size=[24,40]", "student.patch_size=8",
        "method.decoder.depth=1", "method.decoder.embed_dim=24", "method.decoder.num_heads=2",
        f"data.device_crop={str(device_crop).lower()}",
    )  # fmt: skip
    assert "24 px high, 40 px wide, 4 × 2 frames" in said
    backbone: Any = vistill.load_backbone(run)
    assert (backbone.image_size, backbone.grid) == ((24, 40), (3, 5))
    vistill_says(capsys, "embed", run, "--data", clips, "--out", tmp_path / "f.npy", *QUICK)
    source = open_source(str(clips), "video")
    decode, view = ClipDecoder(4, 2, "dense", views=1), VideoTestTransform((24, 40))
    rows = torch.from_numpy(np.load(tmp_path / "f.npy"))
    for number in (0, 9):
        found = decode(source, number, np.random.default_rng(0))
        expected = feature(backbone, view(found)[0][None].float() / 255)
        torch.testing.assert_close(rows[number : number + 1], expected, atol=1e-5, rtol=1e-4)
    if device_crop:
        return
    said = vistill_says(
        capsys, "evaluate", run, "--data", clips, "--protocols", "knn,finetune", *QUICK,
        "finetune.epochs=1", "clips=1", "crops=3", "image_size=[32,24]",
    )  # fmt: skip
    assert "finetune" in said


def test_a_student_given_as_an_object_sees_nothing_squeezed(tmp_path: Path) -> None:
    size = "data.image_size=[24,40]"
    words = [*TRAIN, size, "method.decoder.depth=1", "train.knn_probe=false"]
    words += ["method.decoder.embed_dim=16", "method.decoder.num_heads=2"]
    student = VisionTransformer(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2)
    vistill.pretrain("mae", data=CELLS / "train", out=tmp_path / "a", student=student,
                     overrides=words)  # fmt: skip
    assert student.grid == (3, 5)
    blocks = ModuleBackbone(student, blocks="blocks", width=24, image_size=32)
    with pytest.raises(UserError, match=r"takes pictures of 32 pixels alone, not of \[24,40\]"):
        vistill.pretrain("feature_distillation", data=CELLS / "train", out=tmp_path / "b",
                         teacher="vit_tiny", student=blocks, overrides=[*TRAIN, size,
                         "teacher.weights=random"])  # fmt: skip
    assert not (tmp_path / "b").exists()
