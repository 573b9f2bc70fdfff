"""The pages of evaluations and comparisons, and what `--out` may be."""

import csv
import json
from pathlib import Path

import pytest

from vistill.analysis.teachers import TeacherScores
from vistill.cli import main
from vistill.evaluation.detection.detect import DetectionScore
from vistill.evaluation.metrics import Score, Summary, Tried
from vistill.evaluation.paired import Difference
from vistill.runs.comparison import CellResult, CompareResult, RowResult
from vistill.runs.ranking_teachers import RankResult
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.comparison_page import write_comparison
from vistill.runs.reports.evaluation_page import page_of, write_evaluation
from vistill.runs.reports.ranking_page import write_ranking
from vistill.runs.results import EvaluateResult

CONFIG = {"model": "run:x", "train": "labelled", "test": None, "protocols": ["knn"], "k": 20}


def score(labels: int, top1: float) -> Score:
    tried = (Tried(0.1, 0.0, 0.5), Tried(0.2, 0.0, 0.6))
    budget = f"{labels}/class"
    return Score("knn", budget, labels, 0, top1, None, top1 - 0.1, top1 + 0.1, 99, 1.5,
                 broken=("a<b.jpg",), setting=tried[1], tried=tried)  # fmt: skip


def summary(labels: int, top1: float) -> Summary:
    low, high = top1 - 0.1, top1 + 0.1
    return Summary("knn", f"{labels}/class", labels, (0,), top1, None, low, high, "wilson", 99)


def test_an_evaluation_has_a_page(tmp_path: Path) -> None:
    scores = tuple(score(n, 0.1 * n) for n in (1, 5))
    summaries = tuple(summary(n, 0.1 * n) for n in (1, 5))
    page = tmp_path / "knn.html"
    write_evaluation(EvaluateResult(CONFIG, "run x", scores, summaries), page)
    text = page.read_text()
    curves = ("Accuracy by labels, percent", "Accuracy with its 95 % interval")
    words = ("40.0 – 60.0", "a&lt;b.jpg", "k: 20", "held-out top-1 %", "torch", "a stratified part")
    assert [told for told in (*curves, *words) if told not in text] == []
    assert text.index('<tr class="best">') < text.index("50.0")
    assert len(text) < 100_000
    rows = [*csv.DictReader((tmp_path / "knn-report" / "scores.csv").open())]
    assert [row["labels_used"] for row in rows] == ["1", "5"]
    assert rows[1]["setting.lr"] == "0.2"
    assert (tmp_path / "knn-report" / "accuracy-by-labels-percent.svg").is_file()


def test_any_protocol_has_a_page(tmp_path: Path) -> None:
    one = DetectionScore(0, 0.25, {"walk": 0.5}, "true", 3, 4, 1.0, ("b.mp4",))
    page = tmp_path / "detection.html"
    write_evaluation(EvaluateResult(CONFIG, "run x", detection=(one,)), page)
    assert "<th>precisions.walk</th>" in page.read_text()
    assert "frame-mAP 25.0 %" in page.read_text()


def test_the_numbers_do_not_make_room_for_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page_of(Path("a/scores.json")) == Path("a/scores.html")
    (tmp_path / "data").mkdir()
    words = ["evaluate", "vit_tiny", "--data", str(tmp_path / "data")]
    assert main([*words, "--out", str(tmp_path / "x.html")]) == 2
    assert "is for the numbers, in JSON; name" in capsys.readouterr().err
    assert main([*words, "--out", "."]) == 2
    assert "is a folder; name a JSON file" in capsys.readouterr().err


def test_a_comparison_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "cells" / "kdep" / "seed-0" / "run"
    run.mkdir(parents=True)
    lines = [json.dumps({"step": n, "epoch": n, "loss": 1 / n}) + "\n" for n in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(lines))
    done, failed = CellResult(0.5, 0.4, 0.6, 99, 7.0, 800), CellResult(error="a <fault>")
    rows = [
        RowResult("kdep", "t", "vit_tiny", {0: done, 1: failed}, 0.5, 0.4, 0.6),
        RowResult("mae", "-", "vit_tiny", {0: done}, 0.4, 0.3, 0.5),
        RowResult("amd", "t", "vit_tiny", {0: failed}, None, None, None),
    ]
    real = Difference(rows[0].name, rows[1].name, 0.1, 0.05, 0.15, 0.01, 2)
    result = CompareResult(rows, [real], "knn", "800 pictures")
    asked = {"data": "labelled", "pictures": 800}
    runs = {rows[0].name: run, rows[1].name: tmp_path / "none"}
    write_comparison(result, tmp_path, asked, runs, ["file:t"])
    page = (tmp_path / "report.html").read_text()
    rows_of = ("kdep by t → vit_tiny", "40.0 – 60.0", "5.0 – 15.0", "seed 1: a &lt;fault&gt;")
    words = ("1 of 1 are real", "samples seen", "terms of file:t", "pictures: 800")
    assert [told for told in (*rows_of, *words) if told not in page] == []
    assert len(page) < 100_000
    assert (tmp_path / "report" / "table.csv").read_text().count("\n") == 5
    assert (tmp_path / "report" / "accuracy-with-its-95-interval.svg").is_file()


def test_a_ranking_has_a_page(tmp_path: Path) -> None:
    a = TeacherScores("a", 64, 9.5, 3.0, 2.0, 0.9, 1.0, 0.5, (0.4, 0.6), 0.3, (0.2, 0.4), 0.1)
    b = TeacherScores("b <c>", 64, 5.0, 3.0, 2.0, 0.9, 1.0)
    result = RankResult([b, a], 32, 99, "a", "its classes are tight")
    write_ranking(result, tmp_path / "teachers.html", "pictures", {"k": 20})
    page = (tmp_path / "teachers.html").read_text()
    assert "Try first: a, its classes are tight" in page
    assert '<tr class="best"><td>a</td>' in page
    assert "b &lt;c&gt;" in page
    assert page.count("<svg") == 3
    assert (tmp_path / "teachers-report" / "scores.csv").read_text().count("\n") == 3


def test_a_fault_of_a_page_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise ValueError("no\nsuch thing")

    attempt("here", wrong, "the command")
    told = "note     here: no report could be written: ValueError: no; the command tries again\n"
    assert capsys.readouterr().out == told
