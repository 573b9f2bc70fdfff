"""`students`: together or alone, the same weights; what they are called and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vistill
from vistill.config.loading import load_config
from vistill.config.multi_student import student_configs
from vistill.errors import UserError
from vistill.models.vit import VisionTransformer

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"
ONE = {"model": "vit", "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path": 0.3}
OTHER = {"model": "vit", "embed_dim": 24, "depth": 1, "num_heads": 2, "class_token": True}


def pretrain(out: Path, dry_run: bool = False, **settings: Any) -> Any:
    torch.manual_seed(9)
    teacher = VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    defaults: dict[str, Any] = {
        "method": "feature_distillation",
        "student.patch_size": 8,
        "data.image_size": 32,
        "data.workers": 0,
        "data.held_out": 0.2,
        "train.epochs": 2,
        "train.global_batch_size": 8,
        "train.micro_batch_size": 4,
        "train.device": "cpu",
        "train.loggers": [],
        "optim.warmup_epochs": 0,
        "optim.lr": 1e-3,
        "optim.clip_norm": 0.05,
    }
    words = {name.replace("__", "."): value for name, value in settings.items()}
    return vistill.pretrain(
        data=CELLS,
        out=out,
        teacher=teacher,
        teacher_weights="random",
        overrides=defaults | words,
        dry_run=dry_run,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "both"
    result = pretrain(out, students={"one": ONE, "other": OTHER | {"lr": 3e-3}})
    assert list(result.students) == ["one", "other"]
    assert f"other: {out}/export/other/best; best held_out_loss" in str(result)
    return out


def test_together_as_alone(both: Path, tmp_path: Path) -> None:
    alone = {f"student__{key}": value for key, value in ONE.items()}
    pretrain(tmp_path / "one", **alone)
    alone = {f"student__{key}": value for key, value in OTHER.items()}
    pretrain(tmp_path / "other", optim__lr=3e-3, **{k: v for k, v in alone.items() if k != "lr"})
    for name in ("one", "other"):
        ours, theirs = weights(both / "export" / name), weights(tmp_path / name / "export")
        assert ours.keys() == theirs.keys()
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []
    lines = [json.loads(line) for line in (both / "metrics.jsonl").read_text().splitlines()]
    (line,) = [
        json.loads(text) for text in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    ][-1:]
    assert lines[-1]["one/held_out_loss"] == line["held_out_loss"]
    assert lines[-1]["loss/one/feature"] == pytest.approx(line["loss/feature"], rel=0.5)


def test_its_configuration_is_a_recipe_for_it(both: Path) -> None:
    again = student_configs(load_config(both / "config.yaml", []))
    sizes = [(one.student.embed_dim, one.student.patch_size) for one in again.values()]
    assert sizes == [(16, 8), (24, 8)]
    assert [one.optim.lr for one in again.values()] == [1e-3, 3e-3]
    assert [one.student.drop_path for one in again.values()] == [0.3, None]


def test_one_of_several_is_named(both: Path) -> None:
    assert vistill.load_backbone(f"run:{both}/other").width == 24
    assert vistill.load_backbone(both / "one").width == 16
    with pytest.raises(UserError) as told:
        vistill.load_backbone(both)
    assert f"{both} holds 2 students; write run:{both}/one or run:{both}/other" in str(told.value)
    with pytest.raises(UserError, match=r"both has the students one, other, not onee"):
        vistill.load_backbone(f"run:{both}/onee")
    files = vistill.export(f"run:{both}/one", out=both.parent / "exported", which="last")
    assert files[0].is_file()


def test_what_students_may_not_be(tmp_path: Path) -> None:
    def refused(reason: str, **settings: Any) -> None:
        with pytest.raises(UserError, match=reason):
            pretrain(tmp_path / "no", True, **settings)

    two = {"a": ONE, "b": OTHER}
    refused("students and chain both say who learns", students=two, chain=["vit_tiny"])
    refused("students and student.model both say", students=two, student__model="vit_tiny")
    refused("students names nobody", students={})
    refused("unknown model 'vit_smal', did you mean|unknown model", students__a__model="vit_smal")
    refused(r"students\.a\.patchsize", students={"a": ONE | {"patchsize": 4}})
    refused(
        r"students\.b: the student's map is 2x2", students={"a": ONE, "b": ONE | {"patch_size": 16}}
    )
    refused("students.a", students={"a/b": ONE})
    assert not (tmp_path / "no").exists()


def test_what_the_student_section_sets_counts_for_all_that_have_it() -> None:
    """Sizes for ViTs, drop path also for Swins, nothing for models of a library; own ones first."""
    pupils = {
        "vit": {"model": "vit_tiny"},
        "own": {"model": "vit_tiny", "drop_path": 0.1, "patch_size": 32},
        "swin": {"model": "swinv2_tiny"},
        "cnn": {"model": "timm/resnet10t"},
    }
    words = {"student.drop_path": 0.2, "student.patch_size": 8, "students": pupils}
    found = student_configs(load_config("feature_distillation", words.items()))
    assert {name: one.student.drop_path for name, one in found.items()} == {
        "vit": 0.2,
        "own": 0.1,
        "swin": 0.2,
        "cnn": None,
    }
    usual = type(found["cnn"].student)().patch_size
    sizes = [found[name].student.patch_size for name in pupils]
    assert sizes == [8, 32, usual, usual]
