"""A run recognises its folder, refuses others, and leaves nothing behind when refusing."""

import json

import pytest
from tiny_run import open_run

from vistill.errors import UserError


def tree(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_creates(tmp_path):
    run = open_run(tmp_path / "a" / "run", environment={"teacher": "random"})
    assert not run.resumed
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"
    (session,) = json.loads((run.path / "environment.json").read_text())
    assert session["packages"]["torch"]
    assert session["teacher"] == "random"
    assert {"checkpoints", "export"} <= set(tree(run.path))
    assert "tensorboard" not in tree(run.path)  # its logger makes it


def test_resumes_its_own(tmp_path):
    fingerprint = {"optim": {"betas": (0.9, 0.95)}, "seed": 0}
    open_run(tmp_path / "run", fingerprint=fingerprint)
    run = open_run(tmp_path / "run", fingerprint=fingerprint)
    assert run.resumed
    assert len(json.loads((run.path / "environment.json").read_text())) == 2


def test_refuses_another_configuration_and_names_the_difference(tmp_path):
    old = {"optim": {"lr": 0.1}, "seed": 0, "a": 1, "b": 1}
    open_run(tmp_path / "run", fingerprint=old)
    before = tree(tmp_path)
    new = {"optim": {"lr": 0.2, "extra": None}, "seed": 1, "a": 1, "b": 2}
    with pytest.raises(UserError) as caught:
        open_run(tmp_path / "run", fingerprint=new)
    message = str(caught.value)
    assert "b: 1 → 2, optim.extra: absent → null, optim.lr: 0.1 → 0.2, and 1 more" in message
    assert "--overwrite" in message
    assert tree(tmp_path) == before


def test_overwrite_moves_aside_and_deletes_nothing(tmp_path):
    for seed in range(3):
        run = open_run(tmp_path / "run", fingerprint={"seed": seed}, overwrite=True)
        assert not run.resumed
        (run.checkpoints / "mine").write_text(str(seed))
    kept = [tmp_path / name / "checkpoints" / "mine" for name in ("run.old-1", "run.old-2", "run")]
    assert [path.read_text() for path in kept] == ["0", "1", "2"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_refuses_a_strangers_folder(tmp_path, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(UserError, match=r"cat\.jpg"):
        open_run(tmp_path / "photos", overwrite=overwrite)
    assert tree(tmp_path) == ["photos", "photos/cat.jpg"]


def test_refuses_a_file_and_says_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        open_run(tmp_path / "file" / "run")


def test_leftovers_of_a_killed_start_do_not_block(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".partial-1a2b-vistill.json").write_text("{")
    run = open_run(path)
    (run.checkpoints / ".partial-1a2b-step-00000001.pt").write_text("half")
    open_run(path)
    assert not list(path.rglob(".partial-*"))


def test_metrics_after_the_resumed_step_and_half_lines_go(tmp_path):
    run = open_run(tmp_path / "run")
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    run.forget_after(2)
    assert run.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'
