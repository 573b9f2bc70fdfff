"""The page of a run: of any folder that says anything, from the run's own inputs, and never at the
cost of the run."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cell_runs import WORDS

from vistill import api
from vistill.analysis.drawing import boxed, lit, masked
from vistill.augment.crops import Box, crop, resize
from vistill.config.loading import load_config
from vistill.errors import UserError
from vistill.runs.adapting import Adapted
from vistill.runs.pretraining import Prepared, prepare, run_pretraining
from vistill.runs.reading import open_samples
from vistill.runs.reports import inputs, run_page
from vistill.runs.reports.curves import run_curves, runs_together
from vistill.runs.reports.origins import UNTOLD, origin_of_data, origin_of_model
from vistill.runs.reports.records import read_record, read_records
from vistill.runs.reports.setting import command_line, duration

MOST = 400_000
"""Bytes of the page of a usual run, pictures and all."""
MAE = WORDS | {
    "student.model": "vit", "student.embed_dim": 48, "student.depth": 3, "student.num_heads": 3,
    "student.patch_size": 8, "method.decoder.embed_dim": 16, "method.decoder.depth": 1,
    "method.decoder.num_heads": 2, "optim.warmup_epochs": 0, "train.loggers": [], "train.epochs": 2,
}  # fmt: skip


def mae(**words: Any) -> Prepared:
    settings = MAE | {name.replace("__", "."): value for name, value in words.items()}
    config = load_config(
        "mae", [one for one in settings.items() if not one[0].startswith("teacher")]
    )
    return prepare(Adapted(config), open_samples(config.data, config.method))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mae"
    prepared = mae()
    run_pretraining(prepared, out)
    return out


def written(folder: Path, rows: int, **more: Any) -> Path:
    """The folder of a run, as a version would have left it that wrote no more than metrics."""
    folder.mkdir(parents=True)
    lines = [
        {"step": n, "epoch": n / 10, "loss": 3 / n, "loss/a": 1 / n, "loss/b": 2 / n, "lr": 1e-4}
        for n in range(1, rows + 1)
    ]
    for line in lines[9::10]:
        line |= {"knn": 60 - 40 * (line["step"] / 10) ** -0.5, "held_out_loss": 3 / line["step"]}
    text = "".join(json.dumps(line | more) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 99')  # and one that a kill cut short
    return folder


def test_a_finished_run_has_a_page(run: Path) -> None:
    page = (run / "report.html").read_text()
    for told in ("finished after", "Learning rate", "Share of the time spent waiting for data",
                 "Peak memory, GB", "Samples per second", "held out", "Inputs",
                 "Attention of the student", "Origins and licences", "decoder:", "torch",
                 "% of the patches visible", "pretrain"):  # fmt: skip
        assert told in page, told
    assert len(page) < MOST
    beside = {path.name for path in (run / "report").iterdir()}
    assert {"metrics.csv", "loss.svg", "learning-rate.svg", "inputs-1.jpg", "shown.json",
            "attention-of-the-student-1.jpg"} <= beside  # fmt: skip
    lines = (run / "report" / "metrics.csv").read_text().splitlines()
    assert len(lines) - 1 == len((run / "metrics.jsonl").read_text().splitlines())


def test_it_is_made_again_with_what_it_showed(run: Path, tmp_path: Path) -> None:
    again = api.report(run, out=tmp_path / "page.html")
    assert again == tmp_path / "page.html"
    assert (run / "report.html").read_text() == again.read_text()
    assert (tmp_path / "page-report" / "inputs-1.jpg").is_file()


def test_a_run_without_a_page_is_built_once_more_to_show_its_inputs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report*", "checkpoints"))
    api.report(copy)
    for name in ("inputs-1.jpg", "inputs-6.jpg", "attention-of-the-student-1.jpg"):
        assert (copy / "report" / name).read_bytes() == (run / "report" / name).read_bytes()
    shutil.rmtree(copy / "report")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("cells/train", "cells/gone"))
    capsys.readouterr()
    api.report(copy)
    assert "its inputs cannot be shown: " in capsys.readouterr().out
    assert "Inputs" not in (copy / "report.html").read_text()


def test_inputs_are_those_of_the_first_step() -> None:
    prepared = mae()
    seen: list[Any] = []
    (few,) = prepared.stream.first(3, lambda crop: inputs._Watched(crop, seen))
    first = next(prepared.stream.iterate(0, 1))
    assert torch.equal(few.pixels, first.pixels[:3])
    assert torch.equal(few.seeds, first.seeds[:3])
    for (decoded, box), view in zip(seen, few.pixels, strict=True):
        cut = resize(crop(decoded, box), *view.shape[1:], "bicubic")
        assert torch.equal(cut, view) or torch.equal(cut.flip(-1), view)
    hidden = inputs._grids(prepared.method, few, prepared.method.mask(first).visible[:3])
    assert [int((~one).sum()) for one in hidden] == [12, 12, 12]  # 75 % of 4 x 4
    assert len(inputs.first_inputs(prepared).pictures) == 6


def test_pictures_show_crops_masks_and_attention_where_they_are() -> None:
    white = np.full((80, 160, 3), 255, np.uint8)
    box = np.asarray(boxed(white, Box(20, 40, 30, 50)))
    rows, columns = np.where(box[..., 2] < 200)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 50, 40, 90)
    grid = np.array([[True, False], [False, True]])
    seen = np.asarray(masked(np.full((64, 64, 3), 255, np.uint8), grid, 64))
    assert seen[5, 5, 0] == 255
    assert seen[5, 60, 0] < 160
    light = np.asarray(lit(np.full((64, 64, 3), 200, np.uint8), np.array([[0.0, 1.0]]), 1.0, 64))
    assert light[30, 60, 0] == 200
    assert light[30, 3, 0] == pytest.approx(30, abs=1)


def test_an_old_run_and_an_unfinished_one_have_pages(tmp_path: Path) -> None:
    folder = written(tmp_path / "old", 40)
    assert api.report(folder) == folder / "report.html"
    page = (folder / "report.html").read_text()
    assert "not finished: step 40, epoch 4" in page
    assert "Terms of the loss" in page
    (folder / "config.yaml").write_text("train: {epochs: 9}\nmethod: {name: gone}\n")
    page = api.report(folder).read_text()  # settings of another version
    assert "epoch 4 of 9" in page
    assert "old: gone" in page


def test_evaluations_go_on_as_a_band(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", 200)
    (folder / "config.yaml").write_text("train: {epochs: 40}\n")
    curves = {curve.title: curve for curve in run_curves(read_record(folder, "run"))}
    band = curves["kNN accuracy, percent"].bands["knn"]
    assert (band.x[0], band.x[-1]) == (21, 40)
    assert all(np.array(band.low) < band.middle)
    assert all(np.array(band.middle) < band.high)
    assert band.middle[-1] == pytest.approx(60 - 40 * 40**-0.5, abs=0.5)
    assert [*curves["Loss"].lines] == ["loss", "held out"]
    assert [*curves["Terms of the loss"].lines] == ["a", "b"]


def test_several_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    a, b = written(tmp_path / "x" / "run", 20), written(tmp_path / "y" / "run", 30, grad_norm=1.0)
    (b / "config.yaml").write_text("train: {global_batch_size: 8}\n")
    records = read_records([str(a), f"run:{b}"])
    assert [one.name for one in records] == ["x/run", "y/run"]
    curves = {curve.title: curve for curve in runs_together(records)}
    assert [*curves["Loss"].lines] == ["x/run", "y/run"]
    assert curves["Loss"].lines["y/run"][0][-1] == 30 * 8
    assert [*curves["Gradient norm before clipping"].lines] == ["y/run"]
    page = api.report(a, b, out=tmp_path / "both.html")
    assert "train.global_batch_size" in page.read_text()
    lines = (tmp_path / "both-report" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 20 + 30


def test_a_fault_of_the_page_leaves_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(run_page, "write_report", full)
    result = run_pretraining(mae(train__epochs=1), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()
    assert result.epochs == 1
    told = capsys.readouterr().out
    assert "no report could be written: OSError" in told
    assert f"`vistill report {tmp_path / 'run'}` tries again" in told


def test_no_page_where_none_is_wanted(tmp_path: Path) -> None:
    run_pretraining(mae(train__epochs=1, train__report=False), tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (lambda at: [], "report needs a run: give the folder of one"),
        (lambda at: [at / "rum"], "does not exist; did you mean"),
        (lambda at: [at], "is no run: it holds neither vistill.json nor metrics.jsonl"),
        (lambda at: [at / "run", at / "run"], "twice; leave one of them out"),
        (lambda at: [at / "run", at / "other"], "needs a place: give --out FILE.html"),
        (lambda at: [at / "run", "--out", at / "x.json"], "no HTML file; name one, such as"),
        (lambda at: [at / "run", "--out", at / "no" / "x.html"], "no does not exist"),
    ],
)
def test_mistakes(
    words: Callable[[Path], list[Any]],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vistill.cli import main

    written(tmp_path / "run", 1)
    written(tmp_path / "other", 1)
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *map(str, words(tmp_path))]) == 2
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_origins_are_what_files_beside_and_libraries_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "set" / "train"
    data.mkdir(parents=True)
    assert origin_of_data(str(data)) == UNTOLD
    (tmp_path / "set" / "README.md").write_text("# Cells\n\nblah\n\nLicence: CC BY 4.0, by Doe\n")
    assert origin_of_data(str(data)) == "README.md: Licence: CC BY 4.0, by Doe"
    (data / "LICENSE").write_text("MIT\n\nCopyright Doe\n")
    assert origin_of_data(str(data)) == "LICENSE: MIT Copyright Doe"
    weights = tmp_path / "set" / "w.safetensors"
    weights.write_bytes(b"")
    assert "CC BY 4.0" in origin_of_model(f"file:{weights},num_heads=3")
    told = SimpleNamespace(license="cc-by-nc-4.0", hf_hub_id="timm/x", origin_url="", paper_ids="a")
    fake = SimpleNamespace(get_pretrained_cfg=lambda name, **_: {"vit.mae": told}.get(name))
    monkeypatch.setitem(sys.modules, "timm", fake)  # the real one takes seconds to load
    found = "licence cc-by-nc-4.0\nhttps://huggingface.co/timm/x\na"
    assert origin_of_model("timm/vit:mae") == found
    assert origin_of_model("timm/vit") == UNTOLD
    assert origin_of_model("vit_small") == UNTOLD


def test_words_of_a_process_and_seconds_are_shown_as_people_write_them() -> None:
    words = ["/venv/bin/vistill", "pretrain", "mae", "--data", "my pictures"]
    assert command_line(words) == "vistill pretrain mae --data 'my pictures'"
    assert command_line(["train.py", "a b"]) == "python train.py 'a b'"
    assert [duration(n) for n in (5, 600, 9000)] == ["5 s", "10 min", "2 h 30 min"]


def test_a_signal_leaves_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from vistill.runs import pretraining
    from vistill.stopping import Interrupted

    def stopped(run: Any, *_: object) -> None:
        written(run.path / "inside", 3)
        (run.path / "inside" / "metrics.jsonl").rename(run.path / "metrics.jsonl")
        raise Interrupted("saved", signal.SIGTERM)

    monkeypatch.setattr(pretraining, "_train_in", stopped)
    prepared = mae()
    with monkeypatch.context() as patch:  # what stopped it may be the disk
        patch.setattr("vistill.data.folder.read_file", pytest.fail)
        with pytest.raises(Interrupted):
            run_pretraining(prepared, tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    assert "not finished: step 3" in page.read_text()
    assert ">Inputs<" not in page.read_text()
    api.report(tmp_path / "run")
    assert ">Inputs<" in page.read_text()


def test_a_disk_that_dies_at_the_end_costs_the_pictures_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = mae(data__timeout=0.5)
    monkeypatch.setattr("vistill.data.folder.read_file", lambda _: time.sleep(60))
    run_page.report_run(prepared, run, finished=True)
    told = capsys.readouterr()
    assert "no report could be written:" in told.out + told.err
    assert "has not been read within 0.5 seconds" in told.out + told.err


def test_unusual_settings_are_refused_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", 2)
    (folder / "config.yaml").write_text("train: [")
    with pytest.raises(UserError, match=r"config\.yaml"):
        api.report(folder)
