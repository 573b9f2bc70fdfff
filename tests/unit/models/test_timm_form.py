"""Every student that timm can build leaves as it was measured: strict load, equal feature."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from timm_families import SIZES, STUDENTS, build_smaller, student

from vistill.models.backbone import Backbone
from vistill.models.export import read_backbone, save_backbone

README = Path(__file__).parents[3] / "README.md"
SAMPLE = (
    *("beit_base_patch16_224", "deit3_small_patch16_224", "eva02_tiny_patch14_224"),
    *("test_coatnet", "mobilenetv3_small_050", "test_mambaout", "swinv2_tiny_window8_256"),
    *("efficientvit_b0", "test_vit", "cait_xxs24_224", "xcit_nano_12_p8_224"),
)


def in_timm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """The model and its description as README.md's lines load them."""
    lines = re.findall(r"```python\n(import json.*?)```", README.read_text(), re.DOTALL)
    (folder / "small-vit").symlink_to(folder)
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        scope: dict[str, Any] = {}
        exec(lines[0], scope)
    return scope["model"].eval(), scope["description"]


def check(backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_backbone(backbone, folder)
    model, description = in_timm(folder, monkeypatch)
    pixels = torch.rand(2, 3, *backbone.image_size)
    with torch.no_grad():
        images = backbone.normalization(pixels)
        found = eval(description["feature"], {"model": model, "x": images})
        expected = backbone.pooled(images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-4 * scale, rtol=0)
    mean, std = description["normalization"].values()
    assert (tuple(mean), tuple(std)) == (backbone.normalization.mean, backbone.normalization.std)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_student_loads_strictly_and_gives_its_feature(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smaller(monkeypatch)
    for size in SIZES:
        check(student(name, size), tmp_path / str(size), monkeypatch)


DEAR = {"davit_tiny", "focalnet_tiny_srf", "lowformer_b0", "maxvit_pico_rw_256", "nest_tiny",
        "rdnet_tiny", "tiny_vit_5m_224"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.by_hand] if name in DEAR else [])
        for name in sorted(STUDENTS.keys() - SAMPLE)
    ],
)
def test_every_family_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_a_student_loads_strictly_and_gives_its_feature(name, tmp_path, monkeypatch)


def test_a_cnn_comes_back_at_the_size_that_it_was_used_at(tmp_path: Path) -> None:
    backbone = student("test_resnet", 64)
    backbone.resize(96)
    save_backbone(backbone, tmp_path)
    assert read_backbone(tmp_path).image_size == (96, 96)
    assert json.loads((tmp_path / "model.json").read_text())["timm"]["model_name"] == "test_resnet"
