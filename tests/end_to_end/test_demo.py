"""The demo as a user runs it: the taught student wins outside the intervals, and says so."""

import json
import re

import pytest
from command_line import run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_taught_student_wins_and_the_report_says_so(tmp_path):
    done = run("demo", "--out", tmp_path / "demo", timeout=900)
    assert done.returncode == 0, done.stderr
    scores = {
        name: json.loads((tmp_path / "demo" / f"finetune-{name}.json").read_text())["summaries"][0]
        for name in ("distilled", "alone", "random")
    }
    assert scores["distilled"]["low"] > scores["alone"]["high"]
    assert scores["distilled"]["low"] > scores["random"]["top1"]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"{100 * scores['distilled']['top1']:.1f} %" in page
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="http', page)
    assert f"{100 * scores['distilled']['top1']:.1f} %" in done.stdout
