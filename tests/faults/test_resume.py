"""A run that is killed, at any moment, ends with the weights of one that was not."""

import json
import os
import random
import signal
import sys
import time

import pytest
import tiny_run
import torch
from forked import Forked

# Four megabytes in every checkpoint make kills inside a write likely.
OPTIONS = ["--epochs", "6", "--cadence", "2", "--wide", "4", "--micro", "4"]


def start(out, *options):
    def work():
        sys.argv = ["tiny_run.py", str(out), *OPTIONS, *options]
        return tiny_run.main()

    return Forked(work)


def finish(out, *options):
    process = start(out, *options)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def steps(out):
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.0005)
    assert process.returncode is None, process.said()[1]


def weights(out):
    return torch.load(out / "export" / "last.pt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(out)
    return out


def assert_equal(out, whole):
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    expected = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [line["loss"] for line in expected]
    assert json.loads((out / "result.json").read_text()) == pytest.approx(
        json.loads((whole / "result.json").read_text())
    )


@pytest.mark.slow
def test_killed_at_random_moments(uninterrupted, tmp_path):
    out = tmp_path / "run"
    draws = random.Random(time.time_ns())
    goals = [draws.randint(1, 7), draws.randint(10, 16), draws.randint(18, 25)]
    delays = [draws.uniform(0, 0.03) for _ in goals]
    print("killed after steps", goals, "and seconds", delays)
    for goal, delay in zip(goals, delays, strict=True):
        process = start(out, "--delay", "0.01")
        wait(process, lambda goal=goal: steps(out) >= goal)
        time.sleep(delay)
        process.kill()
        process.wait()
    finish(out)
    assert_equal(out, uninterrupted)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_inside_a_checkpoint_write(uninterrupted, tmp_path, moment):
    out = tmp_path / "run"
    process = start(out, "--die-in", moment, "--die-at-step", "8")
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    partial = [path.name for path in (out / "checkpoints").glob(".partial-*")]
    assert len(partial) == 1
    assert partial[0].endswith("-step-00000008.pt")
    assert (out / "checkpoints" / "step-00000006.pt").exists()
    finish(out)
    assert not list(out.rglob(".partial-*"))
    assert_equal(out, uninterrupted)


@pytest.mark.slow
def test_damaged_newest_checkpoint_is_named_and_passed_over(uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, "--delay", "0.01")
    wait(process, lambda: steps(out) >= 12)
    process.kill()
    process.communicate()
    newest = max((out / "checkpoints").glob("step-*.pt"))
    os.truncate(newest, newest.stat().st_size // 2)
    process = start(out)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0
    assert f"{newest} is damaged" in errors
    assert_equal(out, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_says_how_to_go_on(uninterrupted, tmp_path, signum, code):
    out = tmp_path / "run"
    process = start(out, "--slow-from", "7", "--cadence", "1000")
    wait(process, lambda: steps(out) >= 7)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert "the same command continues" in errors
    finish(out, "--cadence", "1000")
    assert_equal(out, uninterrupted)


def test_disk_full_during_a_checkpoint(uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, "--full-from-step", "7")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "cannot write the checkpoint" in errors
    assert "step-00000006.pt is intact" in errors
    assert "Traceback" not in errors
    assert not list(out.rglob(".partial-*"))
    finish(out)
    assert_equal(out, uninterrupted)
