"""A process of a test that need not load the libraries, which takes longer than most tests do: a
fork of the one that runs it, which has loaded them."""

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn, TextIO

import torch._dynamo  # noqa: F401  which torchvision loads: a second, of every fork

_SIGNALS = (signal.SIGHUP, signal.SIGTERM)


class Forked:
    """As `subprocess.Popen`, of a function whose result is the exit code.

    Args:
        work: what runs in the fork.
        cwd: where it runs; default: here.

    Attributes:
        pid: of the process.
        returncode: None while it runs.
    """

    def __init__(self, work: Callable[[], int], cwd: Path | None = None) -> None:
        self._streams = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._become(work, cwd)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for its end; what it said on both streams.

        Raises:
            TimeoutError: it did not end; it was killed.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"no end after {timeout:g} s:\n{self.said()[1]}")
            time.sleep(0.005)
        return self.said()

    wait = communicate

    def said(self) -> tuple[str, str]:
        """What it has said so far."""
        texts = []
        for file in self._streams:
            file.seek(0)
            texts.append(file.read())
        return texts[0], texts[1]

    def _become(self, work: Callable[[], int], cwd: Path | None) -> NoReturn:
        """What a shell and the interpreter do for a process, as far as it can see."""
        code = 70
        try:
            with open(os.devnull) as nothing:
                for number, file in enumerate((nothing, *self._streams)):
                    os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            logging.root.handlers.clear()  # pytest's, as who shows warnings
            warnings.showwarning = _show
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(cwd or Path.cwd())
            code = work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)
