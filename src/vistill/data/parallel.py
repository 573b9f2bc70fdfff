"""Independent tasks in processes of their own, of which any may be killed by its task."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    work: Callable[[T], R], tasks: Iterable[T], workers: int
) -> Iterator[tuple[T, R | None]]:
    """`work` of every task, in the order in which they are done; 0 workers: in this process.

    A task whose process was killed (by a damaged file in a decoder, or for want of memory) comes
    back with None, and the others go on.
    """
    if workers == 0:
        for task in tasks:
            yield task, work(task)
        return
    waiting = iter(tasks)
    busy: dict[Connection, tuple[BaseProcess, T]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while True:
            while len(busy) < workers:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                connection, process = idle.pop() if idle else _start(work)
                busy[connection] = process, task
                connection.send(task)
            if not busy:
                return
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, task = busy.pop(ready)
                try:
                    result = ready.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    yield task, None
                    continue
                idle.append((ready, process))
                yield task, result
    finally:
        for connection, process in [*((c, p) for c, (p, _) in busy.items()), *idle]:
            process.terminate()
            process.join()
            connection.close()


def _start(work: Callable[[T], R]) -> tuple[Connection, BaseProcess]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(work, there, here), daemon=True)
    process.start()
    there.close()
    return here, process


def _serve(work: Callable[[T], R], connection: Connection, other_end: Connection) -> None:
    # While this process holds the other end too, the death of the main one would go unnoticed.
    other_end.close()
    # Ctrl-C is for the main process, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError):  # the main process is gone
        while True:
            connection.send(work(connection.recv()))
