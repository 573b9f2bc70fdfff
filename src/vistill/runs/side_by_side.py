"""Several cells of a comparison at a time, each in a process that ends with this one."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from vistill.runs.comparing_cells import Cell, Verbs, get_ready, run_cell
from vistill.runs.comparison import CellResult
from vistill.stopping import Interrupted, StopSignals, end_with_the_parent

K = TypeVar("K", bound=Hashable)
_LOOK_SECONDS = 0.5


def side_by_side(
    cells: Mapping[K, Cell], verbs: Verbs, jobs: int, keep: Callable[[K, CellResult], None]
) -> None:
    """Do all cells, `jobs` at a time.

    Args:
        keep: is given the result of each as it comes.

    Raises:
        Interrupted: a signal came; the runs that were under way have saved.
    """
    context, others = multiprocessing.get_context("spawn"), {*multiprocessing.active_children()}
    with (
        StopSignals() as stopping,
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_get_ready, initargs=(jobs,)
        ) as pool,
    ):
        asked = {pool.submit(_run_cell, cell, verbs): which for which, cell in cells.items()}
        try:
            while asked:
                done, _ = wait(asked, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                if stopping.received is not None:
                    raise Interrupted(
                        "interrupted; the runs that were under way are saved, and the same command "
                        "continues from there",
                        stopping.received,
                    )
                for one in done:
                    which = asked.pop(one)
                    try:
                        keep(which, one.result())
                    except BrokenProcessPool:
                        keep(which, CellResult(error="its process ended, or one beside it"))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end([one for one in multiprocessing.active_children() if one not in others])
            raise


def _run_cell(cell: Cell, verbs: Verbs) -> CellResult:
    try:
        return run_cell(cell, verbs)
    except Interrupted as stop:  # or the pool would give this process the next one
        os._exit(stop.exit_code)


def _end(processes: list[BaseProcess]) -> None:
    """Let processes save what they are at, and end."""
    while any(one.is_alive() for one in processes):
        for one in processes:
            one.terminate()
        time.sleep(_LOOK_SECONDS)


def _get_ready(jobs: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, to all; the parent ends this one
    end_with_the_parent()
    get_ready(jobs)
