"""Processes that read: tasks go in, answers, errors and signs of life come out."""

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, MutableSequence
from contextlib import suppress
from multiprocessing import process as registry
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch

from vistill.data.shipping import Parcel, receive

T = TypeVar("T")
R = TypeVar("R")

_JOIN_SECONDS = 2.0
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


class Pulse:
    """What a process that reads is at, and that it goes on; another one may look at it.

    Attributes:
        beats: signs of life so far.
        sample: what is read, by its number; -1 before the first.
    """

    def __init__(self) -> None:
        self._numbers: MutableSequence[int] = multiprocessing.RawArray("q", [0, -1])

    @property
    def beats(self) -> int:
        return self._numbers[0]

    @property
    def sample(self) -> int:
        return self._numbers[1]

    def beat(self, sample: int | None) -> None:
        if sample is not None:
            self._numbers[1] = sample
        self._numbers[0] += 1

    def listen(self) -> None:
        """Let `beat` of this process reach this pulse."""
        global _heard
        _heard = self


_heard: Pulse | None = None
_main_ends: "WeakSet[Connection]" = WeakSet()
# A process is forked by one thread while another closes an end: a fork in the middle of it would
# have a connection that is open by its attributes and closed by its number, which may be another's.
_ends = threading.Lock()


def beat(sample: int | None = None) -> None:
    """Give a sign of life, where somebody looks for it; with the number of what is read next."""
    if _heard is not None:
        _heard.beat(sample)


class Died(Exception):
    """A process ended in the middle of a task.

    Attributes:
        code: its exit code, negative for a signal.
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit code {code}")
        self.code = code

    @property
    def crashed(self) -> bool:
        """Whether the code that it ran is to blame, and not somebody who killed it."""
        return self.code is not None and -self.code in _CRASHES

    def __str__(self) -> str:
        if self.code is not None and self.code < 0:
            return signal.Signals(-self.code).name
        return f"exit code {self.code}"


class Worker(Generic[T, R]):
    """A process that does one task after the other, and ends with this one, however that ends.

    Args:
        work: a task; what it returns or raises comes back.
    """

    def __init__(self, work: Callable[[T], R]) -> None:
        self.pulse = Pulse()
        self.waiting = 0
        with _ends:
            self.connection, there = multiprocessing.Pipe()
            _main_ends.add(self.connection)
            self._process = multiprocessing.Process(
                target=_serve, args=(work, there, self.pulse), daemon=True
            )
            self._process.start()
            there.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def give(self, task: T) -> None:
        """Hand over a task, behind those that wait already.

        Raises:
            Died: the process is gone.
        """
        try:
            self.connection.send(task)
        except OSError as error:
            raise self._death() from error
        self.waiting += 1

    def take(self) -> R:
        """The answer to the oldest task, or the exception that it came to.

        Raises:
            Died: the process is gone.
        """
        try:
            fine, answer = receive(self.connection)
        except (EOFError, OSError) as error:
            raise self._death() from error
        self.waiting -= 1
        if not fine:
            raise answer
        return answer

    def end(self) -> None:
        """Kill the process, and let go of it."""
        self.kill()
        self.disconnect()

    def disconnect(self) -> None:
        """Close this end; nobody may be reading from it."""
        with _ends:
            self.connection.close()

    def kill(self) -> None:
        """Kill the process; whoever waits for it in another thread meets its death."""
        self._process.kill()
        self._process.join(_JOIN_SECONDS)
        if self._process.is_alive():
            # It waits for a dead disk, which not even SIGKILL ends; nor shall this process wait for
            # it when it exits.
            registry._children.discard(self._process)  # type: ignore[attr-defined]

    def _death(self) -> Died:
        self._process.join(_JOIN_SECONDS)
        return Died(self._process.exitcode)


def _serve(work: Callable[[Any], Any], connection: Connection, pulse: Pulse) -> None:
    # While a fork holds the other ends too, the death of the main process would go unnoticed.
    for other_end in list(_main_ends):
        other_end.close()
    # Signals to the whole group (Ctrl-C, a closed terminal, a scheduler's warning) are for the main
    # process, which may still want to finish a step and save. It ends this one itself.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    torch.set_num_threads(1)  # a forked process cannot use the threads of OpenMP
    pulse.listen()
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # A thread takes tasks at once, so that the main process never waits to hand them over.
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    with suppress(BrokenPipeError):
        while True:
            task = tasks.get()
            try:
                parcel = Parcel((True, work(task)))
            except Exception as error:
                parcel = Parcel((False, _portable(error)))
            parcel.send(connection)


def _listen(connection: Connection, tasks: "queue.SimpleQueue[Any]") -> None:
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    os._exit(0)  # the main process is gone, or has enough


def _portable(error: Exception) -> Exception:
    """The error as another process can have it, with its traceback as a note."""
    note = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # libraries raise what cannot be sent
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
