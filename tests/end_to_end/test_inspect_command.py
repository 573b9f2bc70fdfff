"""`vistill inspect`: one model, two beside each other, clips, a classifier's landscape."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CELLS, SIZES, instead, pretrain_mae, run

import vistill
from vistill.cli import main
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

COUNT = min(24, len(open_source(str(CELLS / "test"))))
QUICK = ["device=cpu", "workers=0", "pictures=24"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run, of another depth and size of patches."""
    out = tmp_path_factory.mktemp("inspected") / "other"
    return pretrain_mae(out, "student.depth=3", "student.patch_size=16")


@pytest.mark.slow
def test_two_models(mae_run: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "inside"
    words = [mae_run, other, "--data", CELLS / "test", "--out", out, *QUICK]
    told = run("inspect", *words).stdout
    assert f"{mae_run}: {COUNT} pictures, 2 layers" in told
    assert f"{other}: {COUNT} pictures, 3 layers" in told
    assert "CKA" in told
    assert "least alike of the classes" in told
    found = json.loads((out / "inspect.json").read_text())
    for model in found["models"]:
        for layer in model["layers"]:
            assert 0 < layer["distance"] < 32
            assert 0 <= layer["diagonal"] <= 1
            assert 1 <= layer["rank"] <= 48
            assert "duration" not in layer
    (table,) = found["cka"].values()
    assert np.shape(table) == (2, 3)
    (agreement,) = found["agreement"].values()
    assert len(agreement) == COUNT
    (regions,) = found["regions"].values()
    assert np.shape(regions) == (2, 2)  # of the coarser patches
    assert "column" in told
    arrays = np.load(out / "inspect.npz")
    assert arrays["model0/block1/average"].shape == (16, 16)
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/jpeg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    # The same pictures again, and over what was written before.
    again = vistill.inspect(mae_run, other, data=CELLS / "test", out=out, overrides=QUICK)
    assert json.loads(again.to_json()) == found


def test_memory_does_not_ask_how_the_batches_fall(mae_run: Path) -> None:
    tables = [
        json.loads(vistill.inspect(mae_run, data=CELLS / "test",
                                   overrides=[*QUICK, f"batch_size={size}"]).to_json())
        for size in (24, 5)
    ]  # fmt: skip
    for one, two in zip(*(t["models"][0]["layers"] for t in tables), strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_clips(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    write_motion_clips(open_source(str(CELLS / "train")), clips, count=8, frames=8, size=40)
    words = ["pretrain", "videomae", "--data", clips, "--out", tmp_path / "run",
             *instead(SIZES, "train.global_batch_size=4"), "student.model=vit", "data.frames=4",
             "data.stride=1", "train.epochs=1", "train.loggers=[]", "method.mask_ratio=0.5",
             "method.decoder.embed_dim=24", "method.decoder.num_heads=2"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    found = vistill.inspect(
        tmp_path / "run", data=clips, out=tmp_path / "out", overrides=["device=cpu", "workers=0"]
    )
    layers = json.loads(found.to_json())["models"][0]["layers"]
    assert all(0 < layer["duration"] < 2 for layer in layers)
    assert "slots" in str(found)


def test_the_landscape_of_a_classifier(mae_run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    vistill.evaluate(
        mae_run,
        data=CELLS / "train",
        test=CELLS / "test",
        protocols=["finetune"],
        overrides={"finetune.epochs": 1, "finetune.keep": str(kept), "device": "cpu",
                   "workers": 0},
    )  # fmt: skip
    quick = [*QUICK, "landscape.points=4", "landscape.directions=2", "landscape.plane=true"]
    words = [kept / "labels-1-seed-0", "--data", CELLS / "test", "--out", tmp_path / "out", *quick]
    told = run("inspect", "--landscape", *words).stdout
    assert "accuracy" in told
    (found,) = json.loads((tmp_path / "out" / "inspect.json").read_text())["landscapes"]
    assert found["lengths"] == [-1.0, -0.5, 0.0, 0.5, 1.0]  # the weights themselves are among them
    assert np.shape(found["loss"]) == (2, 5)
    assert np.shape(found["plane"]) == (5, 5)
    middle = np.array(found["loss"])[:, 2]
    assert middle[0] == middle[1] == found["plane"][2][2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "kdep"])
def test_the_landscape_of_a_pretraining(method: str, mae_run: Path, tmp_path: Path) -> None:
    """In its middle is about the loss that the run itself tells of held-out pictures."""
    run_folder = mae_run
    if method == "kdep":
        run_folder = tmp_path / "run"
        words = ["pretrain", "kdep", "--data", CELLS / "train", "--teacher", f"run:{mae_run}",
                 "--out", run_folder, "train.epochs=1", "student.model=vit",
                 "train.precision=fp32", "method.wider=pad", *SIZES]  # fmt: skip
        assert main([str(word) for word in words]) == 0
    quick = [*QUICK, "landscape.points=3", "landscape.directions=2"]
    words = [run_folder, "--data", CELLS / "test", "--out", tmp_path / "out", *quick]
    told = run("inspect", "--landscape", *words).stdout
    assert "accuracy" not in told
    (found,) = json.loads((tmp_path / "out" / "inspect.json").read_text())["landscapes"]
    assert found["accuracy"] is None
    loss = np.array(found["loss"])
    assert np.isfinite(loss).all()
    assert loss[0, 1] == loss[1, 1]
    assert (loss[:, [0, 2]] != loss[:, [1]]).all()
    told = json.loads((run_folder / "result.json").read_text())["best"]
    assert told["metric"] == "held_out_loss"
    assert loss[0, 1] == pytest.approx(told["value"], rel=0.3)


def test_what_cannot_be_done_is_told(mae_run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("x")
    alone = tmp_path.with_name(f"{tmp_path.name}-alone")
    shutil.copytree(mae_run / "export" / "last", alone)
    data = ["--data", str(CELLS / "test")]
    for words, message in (
        ([str(mae_run)], "give --data PATH"),
        ([*data], "inspect needs a model"),
        ([str(mae_run), str(mae_run), *data], "twice"),
        (["nowhere", *data], "nowhere"),
        (["vit_tiny", *data], "random"),
        ([str(mae_run), *data, "landscape.points=3"], "without --landscape"),
        ([str(mae_run), *data, "picturs=3"], "did you mean pictures"),
        ([str(alone), *data, "--landscape", *QUICK], "has no head"),
        ([str(mae_run), *data, "--out", str(tmp_path)], "holds other files, such as mine.txt"),
    ):
        assert main(["inspect", *words]) == 2, words
        told = capsys.readouterr().err.splitlines()[-1]
        assert message in told, told
