"""Runs of a comparison that are made side by side end with it, saved, however it ends."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CELLS, MAE, command, environment
from processes import alive

pytestmark = pytest.mark.slow
PATIENCE = 300


def children(process: int) -> set[int]:
    told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    rows = (map(int, line.split()) for line in told.stdout.splitlines())
    return {pid for pid, parent in rows if parent == process}


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def words(out: Path, steps: int) -> list[str]:
    own = [word for word in MAE if not word.startswith(("student.model", "data.held_out"))]
    own = [f"mae.{word}" if word.startswith("method.") else word for word in own]
    return [
        *("compare", "mae", "--data", str(CELLS), "--out", str(out), "--student", "vit"),
        *("--steps", str(steps), "--seeds", "0,1,2", "--jobs", "2", *own, "data.held_out=0"),
        *("train.loggers=[]", "evaluate.workers=0", "evaluate.device=cpu"),
    ]


@pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.by_hand)],
)
def test_its_runs_end_with_it(tmp_path: Path, signum: signal.Signals) -> None:
    out = tmp_path / "c"
    main = subprocess.Popen(
        command(*words(out, 100_000)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert main.stderr is not None
    runs = lambda: {*out.glob("cells/*/*/run/metrics.jsonl")}  # noqa: E731
    until(lambda: len(runs()) == 2 or main.poll() is not None)
    below = children(main.pid)
    assert len(below) >= 2
    main.send_signal(signum)
    told = main.stderr.read()
    assert main.wait(PATIENCE) == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(signum, -signum)
    if signum != signal.SIGKILL:
        assert "the same command continues from there" in told
        assert "Traceback" not in told
    until(lambda: not any(map(alive, below)))
    assert len(runs()) == 2
    for run in runs():
        assert [*(run.parent / "checkpoints").glob("step-*.pt")]
