"""Which cells a comparison has, what a second call skips, and what a failing cell leaves alone."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vistill.config.compare import compare_config, sorted_settings
from vistill.errors import UserError
from vistill.runs import comparing, comparing_cells
from vistill.runs.comparing import compare
from vistill.runs.comparing_cells import Verbs
from vistill.runs.comparison import CompareResult

CELLS = Path(__file__).parents[2] / "data" / "cells"
SETTINGS = [
    ("data.image_size", 32), ("data.workers", 0), ("data.held_out", 0), ("train.device", "cpu"),
    ("train.global_batch_size", 8), ("teacher.weights", "random"), ("kdep.method.weight", 7.0),
    ("evaluate.workers", 0),
]  # fmt: skip

MAE = [one for one in SETTINGS if not one[0].startswith("kdep.")]


class Stubs:
    """Runs that take a second of processor time a pass, and as good as their name is long."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []
        self.broken: dict[str, Exception] = {}
        self.clock = 0.0
        patch.setattr(comparing_cells, "_cpu", lambda: self.clock)
        patch.setattr(comparing, "get_ready", lambda jobs: None)

    def pretrain(self, method: str, *, out: Path, overrides: dict[str, Any]) -> Any:
        if method in self.broken:
            raise self.broken[method]
        self.made.append({"method": method, "out": out, **overrides})
        self.clock += overrides["train.epochs"] * (1.0 if method == "supervised" else 3.0)
        print("chatter")
        return SimpleNamespace(steps=4 * overrides["train.epochs"])

    def evaluate(self, run: Path, **said: Any) -> Any:
        self.measured.append({"run": run, **said})
        top1 = 0.1 if said["random_init"] else len(run.parts[-3]) / 100 + said["seeds"][0] / 1000
        score = SimpleNamespace(top1=top1, low=top1 - 0.1, high=top1 + 0.1, n_test=50)
        return SimpleNamespace(scores=(score,))

    def compare(self, out: Path, *methods: str, **said: Any) -> CompareResult:
        usual = {
            "teachers": ["timm/test_vit"],
            "students": ["vit_tiny"],
            "seeds": [0, 1],
            "steps": 9,
        }
        settings = said.pop("settings", SETTINGS)
        flags = {k: v for k, v in {**usual, **said, "methods": methods}.items() if v is not None}
        verbs = Verbs(self.pretrain, self.evaluate)
        return compare(compare_config(flags), str(CELLS), None, out, settings, verbs)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Stubs:
    return Stubs(monkeypatch)


def test_every_way_and_seed_once_and_then_no_more(
    stubs: Stubs, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "c"
    students = ["vit_tiny", "vit_small"]
    first = stubs.compare(out, "kdep", "mae", students=students)
    assert len(stubs.made) == 8  # two methods, two students, two seeds
    assert {(one["method"], one["seed"]) for one in stubs.made} == {
        (method, seed) for method in ("kdep", "mae") for seed in (0, 1)
    }
    told = {one["method"]: one for one in stubs.made}
    assert told["kdep"]["teacher.model"] == "timm/test_vit"
    assert told["kdep"]["method.weight"] == 7.0
    assert not any(key.startswith(("teacher", "method.")) for key in told["mae"])
    per_epoch = len(list((CELLS / "train").glob("*/*"))) // 8
    assert told["mae"]["train.epochs"] == 9 // per_epoch
    assert told["mae"]["data.train"] == str(CELLS / "train")
    assert stubs.measured[0]["test"] == str(CELLS / "test")
    assert stubs.measured[0]["overrides"] == {"workers": 0}
    assert "chatter" not in capsys.readouterr().out
    again = stubs.compare(out, "kdep", "mae", students=students)
    assert len(stubs.made) == 8
    assert str(again) == str(first) == (out / "table.txt").read_text().rstrip("\n")
    stubs.compare(out, "kdep", "mae", students=students, seeds=[0, 1, 2])
    assert [one["seed"] for one in stubs.made[8:]] == [2] * 4
    lines = (out / "table.csv").read_text().splitlines()
    assert len(lines) == 13
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert rows[0]["top1"] == max(row["top1"] for row in rows)
    with pytest.raises(UserError, match=r"with other settings \(steps: 9 → 90\)"):
        stubs.compare(out, "kdep", steps=90)


@pytest.mark.parametrize("error", [UserError("no such teacher"), RuntimeError("out of memory\nx")])
def test_what_fails_is_told_and_tried_again(error: Exception, stubs: Stubs, tmp_path: Path) -> None:
    stubs.broken["kdep"] = error
    result = stubs.compare(tmp_path / "c", "kdep", "mae")
    assert [row.method for row in result.rows] == ["mae", "kdep"]
    assert result.rows[1].top1 is None
    said = "no such teacher" if isinstance(error, UserError) else "RuntimeError: out of memory"
    assert f"seed 0: {said}\n" in f"{result}\n"
    assert len(result.rows[0].done) == 2
    stubs.broken.clear()
    made = len(stubs.made)
    assert len(stubs.compare(tmp_path / "c", "kdep", "mae").rows[0].done) == 2
    assert len(stubs.made) == made + 2
    stubs.broken["mae"] = error
    with pytest.raises(UserError, match=f"every run failed; the first: {said}"):
        stubs.compare(tmp_path / "d", "mae", settings=MAE)


def test_what_a_sceptic_asks_for(stubs: Stubs, tmp_path: Path) -> None:
    """Labels alone learn three times as long where a teacher costs three times as much."""
    result = stubs.compare(tmp_path / "c", "kdep", yardsticks=True)
    rows = {row.method: row for row in result.rows}
    assert set(rows) == {"kdep", "supervised", "logit_kd", "relation_kd", "no pre-training",
                         "supervised, equal cost"}  # fmt: skip
    assert rows["no pre-training"].top1 == pytest.approx(0.1)
    assert rows["no pre-training"].cost == (0.0, 0.0)
    assert rows["supervised, equal cost"].cost[0] == rows["kdep"].cost[0]
    assert rows["supervised, equal cost"].cost[1] == 3 * rows["supervised"].cost[1]
    teachers = {one["method"]: one.get("teacher.model") for one in stubs.made}
    assert teachers["logit_kd"] == "timm/test_vit,classifier=keep"
    assert teachers["supervised"] is None
    assert rows["logit_kd"].teacher == "timm/test_vit"
    made = len(stubs.made)
    stubs.compare(tmp_path / "c", "kdep", yardsticks=True)
    assert len(stubs.made) == made


def test_minutes_pay_for_as_many_passes(stubs: Stubs, tmp_path: Path) -> None:
    """Of three seconds a pass, and of one."""
    stubs.compare(tmp_path / "c", "kdep", "supervised", steps=None, minutes=0.17)
    epochs = {one["method"]: one["train.epochs"] for one in stubs.made}
    assert epochs == {"kdep": 3, "supervised": 10}
    result = stubs.compare(tmp_path / "d", "kdep", "supervised", steps=None, minutes=0.04)
    assert "one pass over the pictures takes 0.05 CPU minutes, and the budget is 0.04" in str(
        result
    )


@pytest.mark.parametrize(
    ("steps", "said", "warmup"),
    [(9, [], 3 / 5), (400, [], None), (9, [("optim.warmup_epochs", 1)], 1),
     (15, [("optim.schedule", "1cycle")], None)],
)  # fmt: skip
def test_the_usual_warmup_gives_way_to_a_short_budget(
    stubs: Stubs, tmp_path: Path, steps: int, said: list[tuple[str, Any]], warmup: float | None
) -> None:
    stubs.compare(tmp_path / "c", "mae", steps=steps, settings=[*MAE, *said])
    assert {run.get("optim.warmup_epochs") for run in stubs.made} == {warmup}


def test_one_seed_has_the_interval_of_the_test_set(stubs: Stubs, tmp_path: Path) -> None:
    result = stubs.compare(tmp_path / "c", "kdep", "mae", seeds=[3])
    assert not result.differences
    assert "(Wilson): one seed tells nothing of others; give several --seeds" in str(result)


def test_what_cannot_be_compared(stubs: Stubs, tmp_path: Path) -> None:
    for methods, said, message in (
        (["kdepp"], {}, "did you mean 'kdep'"),
        (["kdep"], {"teachers": []}, "kdep needs a teacher"),
        (["kdep"], {"steps": 2}, "--steps 2 is less than one pass of kdep"),
        (["kdep"], {"steps": None, "pictures": 7}, "--pictures 7 is less than one pass"),
        (["kdep"], {"steps": None}, "needs one budget"),
        (["kdep"], {"minutes": 1.0}, "needs one budget"),
        (["kdep"], {"students": ["vit_tinny"]}, "did you mean 'vit_tiny'"),
        (["mae"], {}, "unknown setting kdep.method.weight"),
        (["mae"], {"settings": [("optim.lrr", 1)]}, "did you mean optim.lr"),
        (["mae"], {"settings": [("evaluate.knn.kk", 1)]}, "knn.k"),
        (["mae"], {"settings": [*MAE, ("optim.warmup_epochs", 5)]}, "optim.warmup_epochs=5 is"),
        (["mae"], {"settings": [*MAE, ("optim.schedule", "3cycle")]}, "at least 6 epochs"),
    ):
        with pytest.raises(UserError) as told:
            stubs.compare(tmp_path / "c", *methods, **said)
        assert message in str(told.value)
    assert not (tmp_path / "c").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("")
    with pytest.raises(UserError, match="holds something else"):
        stubs.compare(tmp_path / "mine", "mae", settings=MAE)


def test_whose_a_setting_is() -> None:
    settings = [("optim.lr", 1), ("kdep.method.weight", 2), ("evaluate.knn.k", 3)]
    runs, evaluations = sorted_settings(settings, ["kdep", "kdep_resnet18"])
    assert runs == {
        "kdep": [("optim.lr", 1), ("method.weight", 2)],
        "kdep_resnet18": [("optim.lr", 1)],
    }
    assert evaluations == [("knn.k", 3)]


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("timm/resnet50:pretrained,classifier=keep", "timm/resnet50:pretrained"),
        ("timm/resnet50:/a b/w.pth,classifier=keep", "timm/resnet50"),
        ("file:runs/w.pth", "w.pth"),
        ("run:runs/teacher", "teacher"),
        ("hf/models/vit", "hf/models/vit"),
    ],
)
def test_teachers_are_named_shortly(teacher: str, name: str) -> None:
    assert comparing._short(teacher) == name
