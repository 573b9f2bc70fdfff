"""Answers to requests in their order, read aside: by processes, or by a thread of this one.

Whoever waits for them hears signals, and gives up on a file that takes longer than the limit.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import finalize

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vistill.data.processes import Died, Pulse, Worker
from vistill.errors import Failure
from vistill.stopping import Interrupted, stop_asked

R = TypeVar("R")

TIMEOUT = 300.0
"""Seconds that reading one sample may take."""
AHEAD = 2
"""Requests that every process has been given."""
_SPELL = 0.2


class Request(NamedTuple):
    """One micro-batch to be read: positions in the source, in an epoch, as one of the fixed views
    of a cache (or as a view of this epoch alone)."""

    epoch: int
    samples: Int[np.ndarray, " b"]
    view: int | None = None


class Reader(Protocol):
    """Answers requests; tells by `processes.beat` which sample it is at."""

    def __call__(self, request: Request) -> dict[str, Any]: ...

    def name(self, sample: int) -> str:
        """What a sample is called."""
        ...


class Loader:
    """Lets a reader answer, in the order of the requests, whatever the number of processes.

    Args:
        reader: answers.
        workers: loader processes; 0 reads in a thread of this process, when asked.
        timeout: seconds that reading one sample may take.
    """

    def __init__(self, reader: Reader, workers: int, timeout: float = TIMEOUT) -> None:
        self.reader, self.timeout = reader, timeout
        self._count = workers
        self._crew: list[Worker[Request, dict[str, Any]]] = []
        self._aside: _Aside | None = None
        self._pulse = Pulse()
        self._end: finalize | None = None

    @property
    def pids(self) -> list[int]:
        """The loader processes."""
        return [worker.pid for worker in self._crew]

    def answers(self, requests: Iterable[Request]) -> Generator[dict[str, Any]]:
        """One answer per request. Processes live on between calls; a call ends the one before.

        Raises:
            Failure: a process died, or a sample is not read within the timeout.
            Interrupted: a signal came while nothing did, see `vistill.stopping.StopSignals`.
        """
        aside = self._start()
        if not self._count:
            for request in requests:
                yield self._wait(aside.do(partial(self._read_here, request), self._pulse))
            return
        asked, crew, turns = iter(requests), self._crew, 0
        for worker in crew:
            self._wait(aside.do(partial(_forget, worker), worker.pulse))
        for worker in crew * AHEAD:
            self._wait(aside.do(partial(_give, worker, asked), worker.pulse))
        due: deque[_Job[dict[str, Any] | None]] = deque()
        while True:
            # One more is fetched, and pinned, while the last is worked on.
            while len(due) < 2:
                worker = crew[turns % len(crew)]
                due.append(aside.do(partial(_next, worker, asked), worker.pulse))
                turns += 1
            answer = self._wait(due.popleft())
            if answer is None:
                return
            yield answer

    def close(self) -> None:
        """End the processes."""
        if self._end is not None:
            self._end()
        self._crew, self._aside = [], None

    # ---- aside

    def _start(self) -> "_Aside":
        if self._aside is None:
            self._crew = [Worker(self.reader) for _ in range(self._count)]
            self._aside = _Aside()
            self._end = finalize(self, _end, os.getpid(), self._aside, self._crew)
        return self._aside

    def _read_here(self, request: Request) -> dict[str, Any]:
        self._pulse.listen()
        return _pinned(self.reader(request))

    # ---- here

    def _wait(self, job: "_Job[R]") -> R:
        since, beats = time.monotonic(), -1
        while not job.done.wait(_SPELL):
            signum, pulse = stop_asked(), job.pulse
            if signum is not None:
                self.close()
                raise Interrupted(f"interrupted while waiting for {self._named(pulse)}", signum)
            if pulse.beats != beats:
                since, beats = time.monotonic(), pulse.beats
            elif time.monotonic() - since > self.timeout:
                self.close()
                raise Failure(
                    f"{self._named(pulse)} has not been read within {self.timeout:g} seconds: its "
                    "disk is gone or very slow, or it is no ordinary file; where it only takes "
                    "longer, raise data.timeout (of an evaluation: timeout)"
                )
        if isinstance(job.error, Died):
            self.close()
            raise Failure(self._death(job.error, job.pulse)) from job.error
        return job.result()

    def _named(self, pulse: Pulse) -> str:
        return "the first sample" if pulse.sample < 0 else self.reader.name(pulse.sample)

    def _death(self, death: Died, pulse: Pulse) -> str:
        place = "" if pulse.sample < 0 else f" at {self.reader.name(pulse.sample)}"
        if death.crashed:
            return (
                f"a loader process crashed{place} ({death}): a decoder does not survive that file; "
                "leave it out (vistill prepare finds such videos), or try data.workers=0"
            )
        return (
            f"a loader process was killed{place} ({death}), which usually means that memory ran "
            "out; use fewer data.workers or a smaller train.micro_batch_size"
        )


def _forget(worker: Worker[Request, Any]) -> None:
    """Take what a worker was asked for before, and drop it."""
    while worker.waiting:
        try:
            worker.take()
        except Died:
            raise
        except Exception:  # of an answer that nobody wants any more
            continue


def _give(worker: Worker[Request, Any], asked: Iterator[Request]) -> None:
    request = next(asked, None)
    if request is not None:
        worker.give(request)


def _next(worker: Worker[Request, Any], asked: Iterator[Request]) -> dict[str, Any] | None:
    """The worker's next answer; None after the last."""
    if not worker.waiting:
        return None
    answer = worker.take()
    _give(worker, asked)
    return _pinned(answer)


class _Job(Generic[R]):
    """Something that is done aside, with the pulse of who does it: `done` is set when it is."""

    def __init__(self, work: Callable[[], R], pulse: Pulse) -> None:
        self._work, self.pulse, self.done = work, pulse, threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self.error = error
        self.done.set()

    def result(self) -> R:
        if self.error is not None:
            raise self.error
        return self._result


class _Aside:
    """A thread that does one job after the other, and keeps nobody from ending."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        # In CUDA every thread chooses its device for itself.
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        threading.Thread(target=_work_off, args=(self._jobs, device), daemon=True).start()

    def do(self, work: Callable[[], R], pulse: Pulse) -> _Job[R]:
        job = _Job(work, pulse)
        self._jobs.put(job)
        return job

    def end(self) -> None:
        self._jobs.put(None)


def _work_off(jobs: "queue.SimpleQueue[_Job[Any] | None]", device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)
    for job in iter(jobs.get, None):
        job.run()
        del job  # or its answer would be kept until the next


def _end(owner: int, aside: _Aside, crew: list[Worker[Request, Any]]) -> None:
    if owner != os.getpid():  # a fork has copies of all this
        return
    for worker in crew:
        worker.kill()
        # Closed by the thread that reads from it: the number of a closed file is soon another's.
        aside.do(worker.disconnect, worker.pulse)
    aside.end()


def _pinned(value: Any) -> Any:
    """An answer whose tensors a GPU can fetch without the host's help, where there is one."""
    if not torch.cuda.is_available():
        return value
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: _pinned(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        parts = [_pinned(inner) for inner in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
