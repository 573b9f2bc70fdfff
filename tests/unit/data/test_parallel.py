"""Tasks in processes: results, errors that come back, deaths, memory, hanging."""

import faulthandler
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from vistill.data.parallel import Lost, Stopped, in_parallel
from vistill.data.processes import beat
from vistill.errors import Failure


class Squares:
    """Squares numbers, and does something else instead at some of them."""

    def __init__(self, odd: dict[int, Any], folder: Path | None = None) -> None:
        self.odd, self.folder = odd, folder

    def __call__(self, number: int) -> int:
        act = self.odd.get(number)
        if self.folder is not None:  # only the first time
            seen = self.folder / str(number)
            act = None if seen.exists() else act
            seen.touch()
        if isinstance(act, signal.Signals):
            faulthandler.disable()
            os.kill(os.getpid(), act)
            time.sleep(1000)
        if isinstance(act, Exception):
            raise act
        if act == "hang":
            time.sleep(1000)
        if act == "slow":
            for _ in range(20):
                time.sleep(0.1)
                beat()
        return number * number


def run(odd: dict[int, Any], workers: int, folder: Path | None = None, limit: float = 100.0):
    return dict(in_parallel(Squares(odd, folder), range(8), workers, lambda _: limit))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results(workers):
    assert run({}, workers) == {n: n * n for n in range(8)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("act", [signal.SIGKILL, signal.SIGSEGV, MemoryError("none left")])
def test_what_dies_beside_others_may_live_alone(tmp_path, workers, act):
    assert run({3: act, 5: act}, workers, tmp_path) == {n: n * n for n in range(8)}


@pytest.mark.parametrize(
    ("act", "guilty", "reason"),
    [
        (signal.SIGKILL, False, "the process that read it was killed (SIGKILL), the second time"),
        (signal.SIGSEGV, True, "crashes the decoder (SIGSEGV)"),
        (signal.SIGABRT, True, "crashes the decoder (SIGABRT)"),
        (MemoryError(), False, "there was no memory to read it, the second time alone"),
    ],
)
def test_what_dies_twice_is_lost_and_the_guilty_are_told_from_the_others(act, guilty, reason):
    found = run({3: act}, 2)
    lost = found.pop(3)
    assert found == {n: n * n for n in range(8) if n != 3}
    assert isinstance(lost, Lost)
    assert lost.guilty == guilty
    assert lost.reason.startswith(reason)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_hanging_ends_at_the_limit_and_slow_is_not_hanging(workers):
    found = run({2: "hang", 5: "slow"}, workers, limit=1.2)
    assert found.pop(2) == Lost("not read within 1 s", guilty=True)
    assert found == {n: n * n for n in range(8) if n != 2}


@pytest.mark.slow
def test_where_everything_hangs_the_disk_is_blamed():
    with pytest.raises(Failure, match=r"4 files in a row cannot be read in time, .* 3: their disk"):
        run(dict.fromkeys(range(8), "hang"), 2, limit=0.3)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_back_with_its_task_and_ends_the_others(workers):
    error = OSError(28, "No space left on device", "here")
    with pytest.raises(Stopped) as told:
        run({4: error, 6: "hang"}, workers)
    assert told.value.task == 4
    cause = told.value.__cause__
    assert isinstance(cause, OSError)
    assert (cause.errno, cause.filename) == (28, "here")
