"""A process that is asked to stop: signals as a wish, granted where work can be saved."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ECHO_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_UNHEARD = (errno.EIO, errno.EPIPE)


class Interrupted(Exception):
    """A signal ended the work after what was done had been saved.

    Attributes:
        exit_code: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signal.Signals(signum)
        self.exit_code = 128 + signum


class StopSignals:
    """While entered, the first signal is noted in `received`; a second Ctrl-C ends at once.

    A scheduler and `torchrun` between them often send the same signal twice: a repeated SIGTERM
    changes nothing, and a repeated SIGINT only does when it is too late to be an echo. A SIGHUP
    that `nohup` has switched off stays off.

    Args:
        patience: seconds that somebody who waits may go on waiting after a signal (see
            `stop_asked`).
    """

    _entered: "StopSignals | None" = None

    def __init__(self, patience: float = 0.0) -> None:
        self.received: int | None = None
        self.patience = patience
        self._received_at = 0.0
        self._before: dict[int, Any] = {}
        self._outer: StopSignals | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only, and lets no other thread ask for them.
        if threading.current_thread() is threading.main_thread():
            for signum in _WATCHED:
                before = signal.getsignal(signum)
                if signum != signal.SIGHUP or before != signal.SIG_IGN:
                    self._before[signum] = before
                    signal.signal(signum, self._note)
        self._outer, StopSignals._entered = StopSignals._entered, self
        return self

    def __exit__(self, *error: object) -> None:
        StopSignals._entered = self._outer
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader process: it ends when told to; the others are its parent's business.
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
        elif self.received is None:
            self.received, self._received_at = signum, time.monotonic()
        elif signum == signal.SIGINT and time.monotonic() - self._received_at > _ECHO_SECONDS:
            raise KeyboardInterrupt


def stop_asked() -> int | None:
    """The signal that asks whoever waits to give up waiting; None as long as there is none."""
    entered = StopSignals._entered
    if entered is None or entered.received is None:
        return None
    waited = time.monotonic() - entered._received_at
    return entered.received if waited >= entered.patience else None


class _Unheard:
    """A text stream whose reader may be gone; then what is written is lost, and nothing else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _unheard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _unheard():
            self._stream.flush()


@contextmanager
def _unheard() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNHEARD:
            raise


@contextmanager
def heard_or_not() -> Iterator[None]:
    """Go on where the terminal or the pipe of standard output or error is closed meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Unheard(sys.stdout), _Unheard(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def end_with_the_parent() -> None:
    """Let this process of `multiprocessing` save what it is at, and end, when its parent has ended:
    a pool's process waits for work as long as there are others of it, also for a parent that was
    killed."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_AGAIN_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
