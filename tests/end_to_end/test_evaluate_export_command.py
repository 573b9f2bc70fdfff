"""`vistill evaluate` and `vistill export` on a run's student."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import CELLS, run
from safetensors.torch import load_file

import vistill
from vistill.cli import main


def test_evaluate_prints_a_table_and_writes_json(mae_run: Path, tmp_path: Path) -> None:
    words = ["evaluate", mae_run, "--data", CELLS, "--protocols", "knn,linear,finetune"]
    quick = ["linear.epochs=2", "linear.min_steps=5", "finetune.epochs=1", "finetune.min_steps=2"]
    out = tmp_path / "scores.json"
    done = run(*words, "--labels", "0.5,1", "--out", out, "workers=0", "device=cpu", *quick)
    rows = done.stdout.splitlines()
    assert rows[0].split()[0] == "protocol"
    assert [row.split()[0] for row in rows[1:7:2]] == ["knn", "linear", "finetune"]
    content = json.loads(out.read_text())
    assert content["weights"].startswith("run ")
    scores = content["scores"]
    assert {score["n_test"] for score in scores} == {15}
    assert {score["labels_used"] for score in scores} == {12, 27}
    assert all(0 <= score["low"] <= score["top1"] <= score["high"] <= 1 for score in scores)


def test_a_sweep_tells_what_it_chose(mae_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    quick = ["finetune.epochs=2", "finetune.lrs=[1e-9,1e-2]", "finetune.test_every=1"]
    words = ["evaluate", mae_run, "--data", CELLS / "train", "--protocols", "finetune"]
    settings = ["finetune.recipe=kdep_sweep", "finetune.weight_decays=[5e-4]", "train_first=6"]
    done = run(*words, "--out", out, "workers=0", "device=cpu", *settings, *quick)
    assert "finetune, 100 %, seed 0: lr=" in done.stdout
    assert "best test during training" in done.stdout
    (score,) = json.loads(out.read_text())["scores"]
    assert (score["labels_used"], score["n_test"]) == (18, 9)
    assert [one["lr"] for one in score["tried"]] == [1e-9, 1e-2]
    assert score["setting"] in score["tried"]
    assert score["best_top1"] >= score["top1"]


def test_random_init_is_a_baseline(mae_run: Path, tmp_path: Path) -> None:
    settings = {"workers": 0, "device": "cpu"}
    for random_init in (False, True):
        result = vistill.evaluate(
            mae_run,
            data=CELLS / "train",
            test=CELLS / "test",
            protocols=["knn"],
            random_init=random_init,
            overrides=settings,
        )
        assert (result.weights == "random") == random_init
        assert len(result.scores) == 1


def test_export_loads_into_timm(mae_run: Path, tmp_path: Path) -> None:
    done = run("export", mae_run, "--out", tmp_path / "timm")
    assert str(tmp_path / "timm" / "model.safetensors") in done.stdout
    description = json.loads((tmp_path / "timm" / "model.json").read_text())
    theirs = timm.create_model(**description["timm"]).eval()
    weights = load_file(tmp_path / "timm" / "model.safetensors")
    theirs.load_state_dict(weights, strict=True)

    ours = vistill.load_backbone(mae_run)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = ours.normalization(pixels)
        torch.testing.assert_close(theirs.forward_features(images), ours(images))


@pytest.mark.slow
def test_export_to_onnx_computes_the_same(mae_run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    vistill.export(mae_run, out=tmp_path, format="onnx", which="last")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ours = vistill.load_backbone(mae_run / "export" / "last")
    for count in (1, 3):  # the batch is free
        pixels = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        tokens, pooled = session.run(None, {"pixels": pixels.numpy()})
        with torch.no_grad():
            images = ours.normalization(pixels)
            np.testing.assert_allclose(tokens, ours(images).numpy(), atol=1e-4)
            np.testing.assert_allclose(pooled, ours.pooled(images).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "vit_tiny", "--data", "DATA"], "vit_tiny would have random weights"),
        (["evaluate", "RUN", "--data", "DATA/red"], "no labels"),
        (["evaluate", "RUN", "--data", "DATA", "--protocols", "kn"], "did you mean 'knn'?"),
        (["evaluate", "RUN", "--data", "DATA", "knn.kk=3"], "did you mean knn.k?"),
        (["evaluate", "RUN", "--data", "DATA", "--labels", "2"], "a label budget is"),
        (["evaluate", "RUN", "--data", "DATA", "--out", "no/x.json"], "folder no does not exist"),
        (["evaluate", "RUN", "--data", "DATA", "--out", "EMPTY"], "EMPTY is a folder"),
        (["evaluate", "RUN", "--data", "DATA", "device=cuda"], "finds no CUDA device"),
        (["export", "EMPTY", "--out", "x"], "no exported backbone"),
        (["export", "EMPTY", "--out", "x", "--which", "best"], "is no finished run"),
        (["export", "RUN", "--out", "FILE"], "is a file"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    mae_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("dear")
    places = {"RUN": str(mae_run), "DATA": str(CELLS / "train")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "x").exists()
