"""The claims of the papers as they are tried: all of them can be run, and are judged rightly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scripts.claims.__main__ import claims, jobs_of, teachers_of
from scripts.claims.claim import Arm, Claim, difference, spread, verdict_of
from scripts.claims.page import page, write_page
from scripts.claims.sceptic import SCEPTIC
from scripts.claims.tasks import BUDGETS, TASKS
from scripts.claims.work import MEASURES, Place

from vistill.config.loading import load_config

CLAIMS = claims()
ARMS = {
    f"{name}: {arm.name}": (claim.task, arm)
    for name, claim in CLAIMS.items()
    for arm in [*claim.arms, *SCEPTIC[claim.task]]
}


def test_every_paper_is_tried_and_every_claim_says_what_would_refute_it() -> None:
    assert len(CLAIMS) >= 25
    assert {claim.paper for claim in CLAIMS.values()} == {"TinyMIM", "FD", "KDEP", "AMD", "UMT"}
    for claim in CLAIMS.values():
        assert claim.says
        assert claim.refuted
        assert claim.measure in MEASURES
        assert len({arm.name for arm in claim.arms}) == len(claim.arms) >= 2
        for better, worse in claim.compared():
            assert better.plain() != worse.plain()


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_can_be_run(name: str) -> None:
    task, arm = TASKS[ARMS[name][0]], ARMS[name][1]
    assert arm.student in task.students or (arm.method is None and arm.student in task.teachers)
    while isinstance(arm, Arm):
        if arm.method is not None:
            said = {**task.settings, **arm.settings}
            if arm.teacher is not None:
                said["teacher.model"] = "timm/deit_tiny_patch16_224:pretrained"
            else:
                said = {key: x for key, x in said.items() if not key.startswith("teacher.")}
            config = load_config(arm.method, said.items())
            assert config.method.needs_teacher == (arm.teacher is not None)
        assert not isinstance(arm.teacher, str) or arm.teacher in task.teachers
        arm = arm.teacher


def test_equal_arms_are_trained_once_and_teachers_first() -> None:
    jobs = jobs_of(CLAIMS, [0, 1, 2], rows=True)
    asked = [(task, str(arm.plain()), seed, measure) for task, arm, seed, measure in jobs]
    assert len(set(asked)) == len(asked)
    assert [seed for _, _, seed, _ in asked] == sorted(seed for _, _, seed, _ in asked)
    names = [arm.name for _, arm in teachers_of(jobs)]
    assert names == ["its teacher", "middle student"]
    assert set(BUDGETS["small"]) == set(TASKS)


A, B = Arm("a"), Arm("b", tuning=2.0)
CLAIM = Claim("TinyMIM", "somewhere", "a beats b", "pictures", (A, B), "b beats a")


@pytest.mark.parametrize(
    ("gaps", "changes", "verdict"),
    [
        ([2.0, 2.1, 1.9], {}, "held"),
        ([-2.0, -2.1, -1.9], {}, "reversed"),
        ([2.0, -2.1, 1.9], {}, "not seen"),
        ([2.0, 2.1], {}, "not seen"),  # too few seeds
        ([-2.0, -2.1, -1.9], {"falls": True}, "held"),
        ([0.1, -0.1, 0.0], {"kind": "no gain"}, "held"),
        ([2.0, 2.1, 1.9], {"kind": "no gain"}, "reversed"),
        ([3.0, -3.0, 0.0], {"kind": "no gain"}, "not seen"),
    ],
)
def test_the_verdict_follows_the_interval(gaps, changes, verdict) -> None:
    claim = replace(CLAIM, **changes)
    scores = {"a": dict(enumerate(50 + gap for gap in gaps)), "b": dict.fromkeys(range(9), 50.0)}
    found = difference(claim, (A, B), scores)
    assert found is not None
    assert found.verdict == verdict
    assert found.seeds == len(gaps)


def test_a_claim_holds_where_every_pair_does() -> None:
    scores = {"a": {0: 60, 1: 61, 2: 60}, "b": {0: 50, 1: 51.5, 2: 50}}
    held = difference(CLAIM, (A, B), scores)
    against = difference(CLAIM, (B, A), scores)
    assert verdict_of([held, held]) == "held"
    assert verdict_of([held, None]) == "not seen"
    assert verdict_of([held, against]) == "reversed"
    assert difference(CLAIM, (A, B), {"a": {0: 1.0}}) is None


def test_the_page_shows_what_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "out", "pictures", "tiny")
    for arm, top in ((A, 60.0), (B, 50.0)):
        for seed in range(3):
            file = place.folder(arm.plain(), seed) / "finetune.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(top + 0.1 * seed))
    write_page({"x.y": CLAIM}, lambda task: replace(place, task=task), [0, 1, 2], "tiny", tmp_path)
    numbers = json.loads((tmp_path / "results" / "claims.json").read_text())
    assert numbers["claims"]["x.y"]["verdict"] == "held"
    text = (tmp_path / "evidence.md").read_text()
    assert text == page(numbers, 3)
    assert "| TinyMIM, somewhere | a beats b | held | a - b: +10.0 [+10.0, +10.0] |" in text
    assert "| x.y | a | finetune | 60.1 [59.9, 60.3] | 0 |" in text
    assert (tmp_path / "results" / "claims_tinymim.svg").stat().st_size > 1000
    assert spread({}) == ""
