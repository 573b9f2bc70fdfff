"""One writer per folder: told by name, whoever it is, and free again when it dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vistill import locking
from vistill.errors import UserError
from vistill.locking import LOCK, FolderLock, Holder, locked

HOLD = """
import sys, time
from pathlib import Path
from vistill.locking import FolderLock
lock = FolderLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def holding(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def foreign(folder: Path) -> None:
    """What a process on another machine left in the lock's file."""
    left = Holder("node17", 4711, "2026-01-01 12:00:00+00:00", "vistill pretrain mae")
    (folder / LOCK).write_text(json.dumps(left._asdict()))


def test_a_second_process_is_refused_by_name_and_a_kill_frees_the_folder(tmp_path):
    process = holding(tmp_path)
    with pytest.raises(UserError) as told:
        FolderLock.acquire(tmp_path)
    assert f"is being written by process {process.pid} on this machine since" in str(told.value)
    assert f"(kill {process.pid})" in str(told.value)
    found = FolderLock.attempt(tmp_path)
    assert isinstance(found, Holder)
    assert (found.host, found.pid) == (socket.gethostname(), process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK).exists()
    start = time.monotonic()
    with FolderLock.acquire(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert time.monotonic() - start < 10  # nobody was waited for
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_taken_again_in_its_own_process_and_not_by_a_fork(tmp_path):
    with FolderLock.acquire(tmp_path), locked(tmp_path):
        assert (tmp_path / LOCK).exists()
        child = os.fork()
        if child == 0:
            os._exit(not isinstance(FolderLock.attempt(tmp_path), Holder))
        assert os.waitpid(child, 0)[1] == 0
        with FolderLock.acquire(tmp_path):
            pass
        assert isinstance(in_another_process(tmp_path), Holder)
    assert not isinstance(in_another_process(tmp_path), Holder)


def in_another_process(folder: Path) -> Holder | None:
    code = (
        "import sys; from pathlib import Path; from vistill.locking import *; "
        "got = FolderLock.attempt(Path(sys.argv[1])); "
        "print(list(got) if isinstance(got, Holder) else '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    return Holder(*eval(done.stdout)) if done.stdout.strip() else None


def test_another_machine_that_lives_is_told_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_PATIENCE", 30.0)
    monkeypatch.setattr(locking, "_BEAT", 0.05)
    foreign(tmp_path)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(tmp_path / LOCK)

    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(UserError) as told:
            FolderLock.acquire(tmp_path)
    finally:
        ended.set()
        other.join()
    assert "process 4711 on node17 since 2026-01-01 12:00:00+00:00" in str(told.value)
    assert "end it there" in str(told.value)
    assert f"delete {tmp_path / LOCK}" in str(told.value)
    assert (tmp_path / LOCK).exists()


def test_another_machine_that_is_gone_blocks_nobody(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locking, "_PATIENCE", 0.2)
    monkeypatch.setattr(locking, "_BEAT", 0.05)
    foreign(tmp_path)
    with FolderLock.acquire(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["host"] == socket.gethostname()
    assert "looking for a sign of life" in caplog.text


def test_a_holder_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_BEAT", 0.01)
    with FolderLock.acquire(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        patience = time.monotonic() + 300
        while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < patience:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_mtime > 0


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(locking.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locking.fcntl, "lockf", without)
    with FolderLock.acquire(tmp_path):
        pass
    monkeypatch.setattr(locking, "_PATIENCE", 0.1)
    foreign(tmp_path)
    with FolderLock.acquire(tmp_path):
        pass


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write to the folder .*file"),
        locked(tmp_path / "file"),
    ):
        pass
