"""`vistill compare` on real pictures: a table, a row that fails, and a second call with no work."""

import json
from pathlib import Path

import pytest
from command_line import CELLS, MAE, run


@pytest.mark.slow
def test_a_table_of_what_worked_and_what_did_not(mae_run: Path, tmp_path: Path) -> None:
    """A teacher of MAE has no class scores; its row says so, and the others stand."""
    out = tmp_path / "c"
    words = ["mae", "logit_kd", "--data", CELLS, "--out", out, "--student", "vit"]
    words += ["--teacher", f"run:{mae_run}", "--steps", "4", "--seeds", "0,1"]
    words += [f"mae.{word}" if word.startswith("method.") else word for word in MAE]
    words = [word for word in words if not str(word).startswith(("student.model", "data.held_out"))]
    words += ["data.held_out=0", "train.loggers=[]", "evaluate.workers=0", "evaluate.device=cpu"]
    told = run("compare", *words).stdout
    assert "failed: logit_kd by " in told
    assert "classifier" in told
    rows = {row["method"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert 0 <= rows["mae"]["top1"] <= 1
    assert rows["mae"]["cells"]["0"]["cpu"] > 0
    assert rows["logit_kd"]["top1"] is None
    made = {path: path.stat().st_mtime_ns for path in out.glob("cells/mae*/*/result.json")}
    assert len(made) == 2
    again = run("compare", *words).stdout
    assert again.splitlines()[-3:] == told.splitlines()[-3:]
    assert {path: path.stat().st_mtime_ns for path in made} == made
