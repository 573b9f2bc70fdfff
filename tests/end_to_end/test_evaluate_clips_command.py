"""`vistill evaluate` on clips rendered from real pictures, and on an AVA-format set of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CELLS, SIZES, environment, run

from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

ROOT = Path(__file__).parents[2]
QUICK = ["workers=0", "device=cpu"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for part, count in (("train", 16), ("test", 8)):
        pictures = open_source(str(CELLS / part))
        write_motion_clips(pictures, folder / part, count=count, frames=18, size=40, seed=count)
    return folder


@pytest.fixture(scope="module")
def clip_run(clips: Path) -> Path:
    out = clips / "run"
    words = ["pretrain", "videomae", "--data", clips / "train", "--out", out, "student.model=vit"]
    run(*words, *SIZES, "data.frames=4", "data.stride=2", "data.sampling=dense", "train.epochs=1")
    return out


@pytest.mark.slow
def test_all_protocols(clips: Path, clip_run: Path) -> None:
    out = clips / "scores.json"
    quick = ["linear.min_steps=5", "linear.epochs=1", "finetune.epochs=1", "finetune.min_steps=2"]
    recipe = ["finetune.recipe=amd_small_k400", "finetune.global_batch_size=8", "clips=2"]
    words = ["evaluate", clip_run, "--data", clips, "--protocols", "knn,linear,finetune"]
    done = run(*words, "--out", out, *recipe, *quick, *QUICK)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [
        "knn", "linear", "finetune",
    ]  # fmt: skip
    content = json.loads(out.read_text())
    used = [content["config"][key] for key in ("frames", "stride", "sampling", "clips", "crops")]
    assert used == [4, 4, "stretched", 2, 3]  # the recipe's stride goes before the run's
    assert {score["n_test"] for score in content["scores"]} == {8}


@pytest.mark.slow
def test_action_detection(clips: Path, clip_run: Path) -> None:
    folder, out = clips / "ava", clips / "detection.json"
    script = [sys.executable, ROOT / "scripts" / "make_ava_set.py", clips, folder]
    subprocess.run([*script, "--train", "8", "--test", "4"], check=True, env=environment())
    words = ["evaluate", clip_run, "--data", folder, "--protocols", "detection", "--out", out]
    lists = ["detection.detections=detections.csv", "detection.actions=actions.csv"]
    quick = ["detection.epochs=1", "detection.min_steps=2"]
    done = run(*words, *lists, *quick, *QUICK)
    assert done.stdout.startswith("frame-mAP ")
    (score,) = json.loads(out.read_text())["detection"]
    assert (score["key_frames"], score["people"], score["boxes"]) == (4, 8, "detected")
    assert 0 <= score["mean_precision"] <= 1


def test_mistakes_are_told_before_any_work(clips: Path, clip_run: Path, mae_run: Path) -> None:
    for words, message in (
        ([clip_run, "--data", clips, "stride=9"], "frames=4 with stride=9 needs 36 frames"),
        ([clip_run, "--data", clips, "--protocols", "detection"],
         "train.csv does not exist; name it with detection.train=PATH"),
        ([mae_run, "--data", CELLS, "stride=2"], "stride=2 is for clips"),
    ):  # fmt: skip
        done = run("evaluate", *words, *QUICK, expect=2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
