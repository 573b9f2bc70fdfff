"""The demos as a user runs them: the taught student wins outside the intervals, and says so."""

import json
import re

import pytest
from command_line import run, run_afresh


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("words", "protocol"), [((), "finetune"), (("--video",), "linear")])
def test_the_taught_student_wins_and_the_report_says_so(tmp_path, words, protocol):
    done = run_afresh("demo", *words, "--out", tmp_path / "demo")
    scores = {
        name: json.loads((tmp_path / "demo" / f"{protocol}-{name}.json").read_text())["summaries"][
            0
        ]
        for name in ("distilled", "alone", "random")
    }
    assert scores["distilled"]["low"] > scores["alone"]["high"]
    assert scores["distilled"]["low"] > scores["random"]["top1"]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"{100 * scores['distilled']['top1']:.1f} %" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="http', page)
    assert f"{100 * scores['distilled']['top1']:.1f} %" in done.stdout


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    done = run("demo", "--video", "--out", tmp_path, expect=2)
    assert "belongs to something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
