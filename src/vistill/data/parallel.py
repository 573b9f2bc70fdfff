"""Independent tasks in processes of their own, of which any may be killed by its task."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from vistill.data.processes import Died, Worker
from vistill.errors import Failure

T = TypeVar("T")
R = TypeVar("R")

_SPELL = 1.0
_STILL = 3
"""Tasks in a row, or one per process if these are more, that may hang before the disk is blamed."""


@dataclass(frozen=True)
class Lost:
    """No result of a task.

    Attributes:
        reason: what befell its process.
        guilty: whether the task did that: it hung, or what it ran crashed twice, the second time
            alone. It did not where the process was killed twice, as for want of memory.
    """

    reason: str
    guilty: bool


class Stopped(Exception):
    """An error that came out of a task (`__cause__`), after which there is no going on.

    Attributes:
        task: which one.
    """

    def __init__(self, task: object) -> None:
        super().__init__(task)
        self.task = task


def in_parallel(
    work: Callable[[T], R],
    tasks: Iterable[T],
    workers: int,
    limit: Callable[[T], float] | None = None,
) -> Iterator[tuple[T, R | Lost]]:
    """`work` of every task, in the order in which they are done; 0 workers: in this process.

    A task whose process dies, or that finds no memory, is tried once more at the end, alone.

    Args:
        work: may call `processes.beat` to say that it goes on.
        tasks: all of them.
        workers: processes.
        limit: seconds without a sign of life after which a task is taken to hang.

    Raises:
        Stopped: `work` raised; the other processes are ended.
        Failure: everything hangs.
    """
    if workers == 0:
        for task in tasks:
            try:
                yield task, work(task)
            except Exception as error:
                raise Stopped(task) from error
        return
    crew = _Crew(work, workers, limit)
    yield from crew.run(tasks)
    for task, _ in crew.again:
        alone = _Crew(work, 1, limit)
        yield from alone.run([task])
        yield from ((task, _lost(death)) for _, death in alone.again)


def _lost(death: Died | MemoryError) -> Lost:
    if isinstance(death, Died) and death.crashed:
        return Lost(f"crashes the decoder ({death})", guilty=True)
    how = f"the process that read it was killed ({death})"
    if isinstance(death, MemoryError):
        how = "there was no memory to read it"
    return Lost(f"{how}, the second time alone, so memory is short", guilty=False)


class _Post(Generic[T, R]):
    """A process at work on a task, and when it last gave a sign of life."""

    def __init__(self, worker: Worker[T, R], task: T) -> None:
        self.worker, self.task = worker, task
        self._since, self._beats = time.monotonic(), worker.pulse.beats
        worker.give(task)

    def silence(self) -> float:
        """Seconds without a sign of life."""
        if self.worker.pulse.beats != self._beats:
            self._since, self._beats = time.monotonic(), self.worker.pulse.beats
        return time.monotonic() - self._since


class _Crew(Generic[T, R]):
    """Some processes that share tasks; `again` holds those whose process died, and of what."""

    def __init__(
        self, work: Callable[[T], R], workers: int, limit: Callable[[T], float] | None
    ) -> None:
        self._work, self._workers, self._limit = work, workers, limit
        self._busy: dict[Connection, _Post[T, R]] = {}
        self._idle: list[Worker[T, R]] = []
        self.again: list[tuple[T, Died | MemoryError]] = []

    def run(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | Lost]]:
        waiting = iter(tasks)
        hung: list[tuple[T, Lost]] = []
        try:
            while True:
                self._employ(waiting)
                if not self._busy:
                    yield from hung
                    return
                for ready in wait(list(self._busy), _SPELL):
                    assert isinstance(ready, Connection)
                    for done in self._answered(self._busy.pop(ready)):
                        yield from hung  # there is something that can be read
                        hung.clear()
                        yield done
                hung += self._silent()
                if len(hung) > max(_STILL, self._workers):
                    raise Failure(
                        f"{len(hung)} files in a row cannot be read in time, of which the last is "
                        f"{hung[-1][0]}: their disk is gone or very slow"
                    )
        finally:
            for worker in [*(post.worker for post in self._busy.values()), *self._idle]:
                worker.end()

    def _employ(self, waiting: Iterator[T]) -> None:
        while len(self._busy) < self._workers:
            try:
                task = next(waiting)
            except StopIteration:
                return
            worker = self._idle.pop() if self._idle else Worker[T, R](self._work)
            try:
                self._busy[worker.connection] = _Post(worker, task)
            except Died as death:
                worker.end()
                self.again.append((task, death))

    def _answered(self, post: _Post[T, R]) -> Iterator[tuple[T, R]]:
        worker, task = post.worker, post.task
        try:
            result = worker.take()
        except Died as death:
            worker.end()
            self.again.append((task, death))
            return
        except MemoryError as error:
            self._idle.append(worker)
            self.again.append((task, error))
            return
        except Exception as error:
            worker.end()
            raise Stopped(task) from error
        self._idle.append(worker)
        yield task, result

    def _silent(self) -> list[tuple[T, Lost]]:
        """End the processes that have shown no sign of life for too long."""
        found = []
        for connection, post in list(self._busy.items()):
            limit = float("inf") if self._limit is None else self._limit(post.task)
            if post.silence() > limit:
                del self._busy[connection]
                post.worker.end()
                found.append((post.task, Lost(f"not read within {limit:.0f} s", guilty=True)))
        return found
