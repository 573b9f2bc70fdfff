"""`vistill predict` and `vistill embed`: the numbers of the model, whatever happens on the way."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CELLS, TORCHRUN, run

import vistill
from vistill.cli import main
from vistill.config.clip_recipes import ClipSettings
from vistill.data import EvalTransform, decode_image, open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.evaluation import rows as rows_module
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.saved_classifier import save_classifier
from vistill.models.build import create_backbone
from vistill.models.export import save_backbone

QUICK = ["workers=0", "device=cpu", "batch_size=4"]
SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled pictures, one of them broken."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    shutil.copytree(CELLS / "test", folder)
    first = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    first.with_name("broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = create_backbone("vit", **SIZES).eval()
    backbone.untrained = False
    classifier = Classifier(backbone, 3, pool="avg").eval()
    torch.nn.init.normal_(classifier.head.weight)
    folder = tmp_path_factory.mktemp("models") / "kept"
    save_classifier(classifier, folder, ["a", "b", "c"], None)
    return folder


def seen(path: Path) -> torch.Tensor:
    return EvalTransform(32)(decode_image(path.read_bytes()))[None].float() / 255


def test_predictions_are_the_models(
    kept: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "found.csv"
    words = ["predict", str(kept), "--data", str(pictures), *QUICK]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "left out, since unreadable: 1 picture\n" in said
    assert "broken.jpg" in said
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    classifier = vistill.load_classifier(kept)
    assert len(table) == len([p for p in pictures.rglob("*.*") if p.name != "broken.jpg"])
    assert [row["path"] for row in table] == sorted(row["path"] for row in table)
    for row in table:
        with torch.no_grad():
            probabilities = classifier(seen(pictures / row["path"])).softmax(1)[0]
        assert row["label"] == Path(row["path"]).parts[0]
        order = probabilities.argsort(descending=True).tolist()
        assert [row[f"class_{k}"] for k in (1, 2, 3)] == [classifier.classes[i] for i in order]
        told = [float(row[f"probability_{k}"]) for k in (1, 2, 3)]
        np.testing.assert_allclose(told, probabilities[order].numpy(), atol=2e-6)
    assert main([*words, "--out", str(tmp_path / "one.parquet"), "--top-k", "1"]) == 0
    found = parquet.read_table(tmp_path / "one.parquet").to_pydict()
    assert found["class_1"] == [row["class_1"] for row in table]
    assert list(found) == ["path", "label", "class_1", "probability_1"]
    assert not list(tmp_path.glob("*.unfinished"))


def test_embeddings_are_the_features_that_are_measured(
    kept: Path, pictures: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    settings = {"workers": 0, "device": "cpu", "batch_size": 4}
    for suffix in ("npy", "npz", "parquet"):
        result = vistill.embed(
            kept, data=pictures, out=tmp_path / f"f.{suffix}", overrides=settings
        )
        assert len(result.broken) == 1
    features = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert isinstance(features, np.memmap)
    with (tmp_path / "f.npy.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    backbone = vistill.load_backbone(kept)
    for row, feature in zip(table, features, strict=True):
        with torch.no_grad():
            expected = backbone.pooled(backbone.normalization(seen(pictures / row["path"])))[0]
        np.testing.assert_allclose(feature, expected.numpy(), atol=1e-5)
    arrays = np.load(tmp_path / "f.npz")
    columns = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    np.testing.assert_array_equal(arrays["features"], features)
    np.testing.assert_array_equal(np.array(columns["feature"], np.float32), features)
    assert arrays["paths"].tolist() == columns["path"] == [row["path"] for row in table]
    assert arrays["labels"].tolist() == columns["label"] == [row["label"] for row in table]


def test_an_interrupted_pass_goes_on_and_gives_the_same_file(
    kept: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"workers": 0, "device": "cpu", "batch_size": 4}
    vistill.embed(kept, data=pictures, out=tmp_path / "whole.npy", overrides=settings)
    monkeypatch.setattr(rows_module, "_COMMIT_SECONDS", 0.0)
    add, seen_ids = rows_module.RowFile.add, []

    def adding(self: rows_module.RowFile, ids: np.ndarray, values: np.ndarray) -> None:
        if len(seen_ids) == 2:
            raise KeyboardInterrupt
        seen_ids.append(ids)
        add(self, ids, values)

    monkeypatch.setattr(rows_module.RowFile, "add", adding)
    with pytest.raises(KeyboardInterrupt):
        vistill.embed(kept, data=pictures, out=tmp_path / "cut.npy", overrides=settings)
    assert not (tmp_path / "cut.npy").exists()
    again: list[np.ndarray] = []

    def recording(self: rows_module.RowFile, ids: np.ndarray, values: np.ndarray) -> None:
        again.append(ids)
        add(self, ids, values)

    monkeypatch.setattr(rows_module.RowFile, "add", recording)
    result = vistill.embed(kept, data=pictures, out=tmp_path / "cut.npy", overrides=settings)
    assert not set(np.concatenate(again)) & set(np.concatenate(seen_ids))
    assert [Path(name).name for name in result.broken] == ["broken.jpg"]
    assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


KILLED = """
import os, signal, sys
from vistill.cli import main
from vistill.evaluation import rows

rows._COMMIT_SECONDS = 0.0
commit, times = rows.RowFile.commit, []

def dying(self):
    times.append(len(self._pending))
    if os.environ.get("RANK", "0") == os.environ["KILLED"] and sum(times) == int(os.environ["AT"]):
        os.kill(os.getpid(), signal.SIGKILL)  # its rows are written, their marks are not
    commit(self)

rows.RowFile.commit = dying
sys.exit(main(sys.argv[1:]))
"""


def killed_half_way(
    words: list[str], folder: Path, *, ranks: int, killed: int, at: int
) -> subprocess.CompletedProcess[str]:
    """A process, or one of several, that is killed while it keeps a batch."""
    script = folder / "killed.py"
    script.write_text(KILLED)
    return subprocess.run(
        [*(TORCHRUN if ranks > 1 else [sys.executable]), str(script), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "KILLED": str(killed), "AT": str(at)},
        timeout=400,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "name"), [("embed", "f.npy"), ("predict", "f.csv")])
def test_a_killed_pass_goes_on_and_gives_the_same_file(
    verb: str, name: str, kept: Path, pictures: Path, tmp_path: Path
) -> None:
    words = [verb, str(kept), "--data", str(pictures), *QUICK, "--out"]
    whole, cut = tmp_path / f"whole_{name}", tmp_path / f"cut_{name}"
    died = killed_half_way([*words, str(cut)], tmp_path, ranks=1, killed=0, at=3)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not cut.exists()
    done = np.load(tmp_path / f"{cut.name}.unfinished" / "done.npy")
    assert 4 <= np.count_nonzero(done) < len(done)
    assert main([*words, str(cut)]) == 0
    assert main([*words, str(whole)]) == 0
    assert cut.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize(("verb", "name"), [("embed", "f.npy"), ("predict", "f.csv")])
def test_progress_is_told_where_no_terminal_is(
    verb: str,
    name: str,
    kept: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rows_module._TOLD_SECONDS == 15.0
    monkeypatch.setattr(rows_module, "_TOLD_SECONDS", 0.0)
    monkeypatch.setattr(rows_module, "_COMMIT_SECONDS", 0.0)
    words = [verb, str(kept), "--data", str(pictures), *QUICK, "--out", str(tmp_path / name)]
    assert main(words) == 0
    what = {"embed": "features", "predict": "predictions"}[verb]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(what)]
    count = sum(path.is_file() for path in pictures.rglob("*"))
    pattern = rf"{what} (\d+)/{count} · [\d.]+ pictures/s( · ETA .+)?"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found)
    done = [int(match[1]) for match in found if match is not None]
    assert done == sorted(set(done))
    assert done[-1] == count - 1  # but for the broken one


def test_clips_are_seen_in_all_their_views(tmp_path: Path) -> None:
    pictures = open_source(str(CELLS / "test"))
    write_motion_clips(pictures, tmp_path / "clips", count=8, frames=18, size=40, seed=1)
    torch.manual_seed(0)
    backbone = create_backbone("vit", num_frames=4, **SIZES).eval()
    backbone.untrained = False
    classifier = Classifier(backbone, 8, pool="avg").eval()
    torch.nn.init.normal_(classifier.head.weight)
    names = open_source(str(tmp_path / "clips"), "video").classes
    settings = ClipSettings(4, 2, "dense", 2, 3)
    save_classifier(classifier, tmp_path / "kept", names, settings)
    quick = {"workers": 0, "device": "cpu"}
    out = tmp_path / "found.csv"
    vistill.predict(tmp_path / "kept", data=tmp_path / "clips", out=out, overrides=quick)
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    measured = vistill.evaluate(
        tmp_path / "kept", data=tmp_path / "clips", protocols=["test"], overrides=quick
    )
    right = sum(row["class_1"] == row["label"] for row in table) / len(table)
    assert len(table) == 8
    assert right == pytest.approx(measured.scores[0].top1)
    source, inputs = open_source(str(tmp_path / "clips"), "video"), Inputs(32, settings)
    transform, decode = inputs.testing()
    views = torch.stack(transform(decode(source, 0, np.random.default_rng(0))))
    assert len(views) == 6
    trained = vistill.load_classifier(tmp_path / "kept")
    with torch.no_grad():
        mean = trained(views.float() / 255).softmax(1).mean(0)
        feature = backbone.pooled(backbone.normalization(views.float() / 255)).mean(0)
    assert float(table[0]["probability_1"]) == pytest.approx(float(mean.max()), abs=1e-5)
    all_views = quick | {"clips": 2, "crops": 3}
    vistill.embed(
        tmp_path / "kept", data=tmp_path / "clips", out=tmp_path / "f.npy", overrides=all_views
    )
    np.testing.assert_allclose(np.load(tmp_path / "f.npy")[0], feature.numpy(), atol=1e-5)


@pytest.mark.slow
def test_two_ranks_write_the_same_file_also_if_one_was_killed(
    kept: Path, pictures: Path, tmp_path: Path
) -> None:
    words = ["embed", str(kept), "--data", str(pictures), *QUICK]
    run(*words, "--out", tmp_path / "one.npy")
    died = killed_half_way(
        [*words, "--out", str(tmp_path / "two.npy")], tmp_path, ranks=2, killed=1, at=2
    )
    assert died.returncode != 0
    assert not (tmp_path / "two.npy").exists()
    half = np.load(tmp_path / "two.npy.unfinished" / "done.npy")
    assert 4 <= np.count_nonzero(half) < len(half)
    done = subprocess.run(
        [*TORCHRUN, "-m", "vistill.cli", *words, "--out", str(tmp_path / "two.npy")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert done.stdout.count("left out, since unreadable") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "KEPT", "--data", "DATA", "--out", "x.txt"], "must end in .csv or .parquet"),
        (["predict", "KEPT", "--data", "DATA", "--out", "no/x.csv"], "folder no does not exist"),
        (["predict", "KEPT", "--data", "DATA", "--out", "THERE.csv"], "is there already"),
        (["predict", "KEPT", "--data", "DATA", "--out", "x.csv", "--top-k", "0"], "1 or more"),
        (["predict", "KEPT", "--data", "DATA", "--out", "x.csv", "stride=2"], "is for clips"),
        (["predict", "BARE", "--data", "DATA", "--out", "x.csv"], "has no head"),
        (["predict", "KEPT", "--data", "DATA", "--out", "x.csv", "pool=cls"], "unknown setting"),
        (["embed", "vit_tiny", "--data", "DATA", "--out", "x.npy"], "random weights"),
        (["embed", "BARE", "--data", "DATA", "--out", "x.npy", "image_sise=3"], "did you mean"),
        (["embed", "BARE", "--data", "DATA"], "give --data PATH --out FILE"),
    ],
)
def test_mistakes(
    words: list[str],
    message: str,
    kept: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "THERE.csv").write_text("dear")
    bare = create_backbone("vit", **SIZES)
    bare.untrained = False
    save_backbone(bare, tmp_path / "bare")
    places = {"KEPT": str(kept), "DATA": str(pictures), "BARE": str(tmp_path / "bare")}
    assert main([places.get(word, word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["THERE.csv", "bare"]
