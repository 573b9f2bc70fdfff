"""Processes that read are started by one thread while another ends some."""

import threading
import time
from multiprocessing.connection import Connection

import pytest

from vistill.data.processes import Worker


def double(number: int) -> int:
    return 2 * number


def test_started_while_another_thread_lets_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed end looks open until `close` returns: a fork made meanwhile must not see it."""
    closing, close = threading.Event(), Connection._close  # type: ignore[attr-defined]

    def slow(self: Connection) -> None:
        close(self)
        if threading.current_thread() is thread:
            closing.set()
            time.sleep(0.5)

    old = Worker[int, int](double)
    thread = threading.Thread(target=old.end)
    monkeypatch.setattr(Connection, "_close", slow)
    thread.start()
    assert closing.wait(30)
    new = Worker[int, int](double)
    new.give(21)
    assert new.take() == 42
    thread.join()
    new.end()


def test_the_death_of_one_is_noticed_though_another_was_started_meanwhile() -> None:
    """No process holds the ends of another one."""
    crew = [Worker[int, int](double) for _ in range(3)]
    threads = [threading.Thread(target=worker.end) for worker in crew]
    for thread in threads:
        thread.start()
    later = [Worker[int, int](double) for _ in range(3)]
    for thread in threads:
        thread.join()
    for number, worker in enumerate(later):
        worker.give(number)
        assert worker.take() == 2 * number
        worker.end()
