"""The demos as a user runs them, with fewer seeds: the taught student wins with each of them, and
the report says so."""

import json
import re

import pytest
from command_line import run, run_afresh


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("words", "protocol"),
    [((), "finetune"), pytest.param(("--video",), "linear", marks=pytest.mark.by_hand)],
)
def test_the_taught_student_wins_and_the_report_says_so(tmp_path, words, protocol):
    done = run_afresh("demo", *words, "--seeds", "2", "--out", tmp_path / "demo")
    found = {
        name: json.loads((tmp_path / "demo" / f"{protocol}-{name}.json").read_text())
        for name in ("distilled", "alone", "random")
    }
    taught, alone, fresh = ([row["top1"] for row in table["scores"]] for table in found.values())
    assert len(taught) == 2
    assert min(taught) > max(*alone, *fresh)
    scores = {name: table["summaries"][0] for name, table in found.items()}
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"{100 * scores['distilled']['top1']:.1f} %" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="http', page)
    assert f"{100 * scores['distilled']['top1']:.1f} %" in done.stdout


def test_one_seed_is_refused(tmp_path):
    done = run("demo", "--seeds", "1", "--out", tmp_path / "demo", expect=2)
    assert "--seeds must be 2 or more" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    done = run("demo", "--video", "--out", tmp_path, expect=2)
    assert "belongs to something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
