"""The scripts of the real runs, on a few pictures: teachers are read, finished steps skipped."""

import json
import runpy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from vistill.data.motion_clips import write_video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "experiments"
CELLS = ROOT / "tests" / "data" / "cells"
TINY = ["--data", str(CELLS), "--epochs", "1", "--batch", "8", "--tuning", "1", "--seeds", "0", "1"]


def run(script: str, teacher: Path, out: Path, arms: list[str]) -> dict[str, dict[str, object]]:
    main = runpy.run_path(str(SCRIPTS / script))["main"]
    main([*TINY, "--teacher", str(teacher), "--out", str(out), "--only", *arms])
    return json.loads((out / "table.json").read_text())


def test_kdep_of_a_cifar_resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    network = runpy.run_path(str(SCRIPTS / "kdep_cifar10.py"))["CifarResNet"](56)
    assert sum(p.numel() for p in network.parameters()) == 853_018
    state = {f"module.{name}": x for name, x in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "teacher.th")

    arms = ["resnet8-scratch", "resnet8-conv1x1"]
    table = run("kdep_cifar10.py", tmp_path / "teacher.th", tmp_path / "out", arms)
    assert list(table) == arms
    measured = {(one["protocol"], one["budget"]) for one in table["resnet8-conv1x1"]["summaries"]}
    assert len(measured) == 6
    weights = tmp_path / "out" / "resnet8-conv1x1" / "run" / "export" / "last" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run("kdep_cifar10.py", tmp_path / "teacher.th", tmp_path / "out", arms) == table
    assert weights.stat().st_mtime_ns == written


@pytest.mark.by_hand
def test_feature_distillation_of_a_mobilenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    network = timm.create_model("mobilenetv2_100")
    halves = {name: x.half() if x.dim() > 1 else x for name, x in network.state_dict().items()}
    save_file(halves, tmp_path / "teacher.safetensors")
    teacher = tmp_path / "teacher.safetensors"
    table = run("fd_imagenette.py", teacher, tmp_path / "out", ["fd", "mae"])
    assert list(table) == ["fd", "mae"]
    assert "fine-tuned, 1 %" in (tmp_path / "out" / "table.md").read_text()


def test_amd_on_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    rows = [
        (f"{label}{number}.mp4", label, part)
        for label in ("fight", "noFight")
        for number, part in enumerate(("train", "train", "test"))
    ]
    lines = ["file,label,split", *(",".join(row) for row in rows)]
    (tmp_path / "fights").mkdir()
    (tmp_path / "fights" / "index.csv").write_text("\n".join(lines) + "\n")
    for file, label, _ in rows:
        write_video(
            tmp_path / "fights" / file,
            torch.full((20, 64, 80, 3), 40 if label == "fight" else 200, dtype=torch.uint8),
        )
    main = runpy.run_path(str(SCRIPTS / "amd_clips.py"))["main"]
    sizes = {"clips": 32, "labelled": 16, "tests": 8, "width": 32, "epochs": 1, "steps": 3}
    main(
        [f"--pictures={CELLS}", f"--fights={tmp_path / 'fights'}"]
        + [f"--out={tmp_path / 'out'}", "--only", "teacher", "amd", "--seeds", "0", "1"]
        + [f"--{name}={value}" for name, value in (sizes | {"teacher-epochs": 1}).items()]
    )
    for task, labels in (("motion", 16), ("fight", 4)):
        table = json.loads((tmp_path / "out" / f"{task}-table.json").read_text())
        assert list(table) == ["teacher", "amd"]
        used = {(one["protocol"], one["labels_used"]) for one in table["amd"]["summaries"]}
        assert used == {("knn", labels), ("linear", labels), ("finetune", labels)}
    assert (tmp_path / "out" / "motion-test.txt").read_text().count(".mp4 ") == 8
