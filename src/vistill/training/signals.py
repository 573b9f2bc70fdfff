"""SIGTERM and SIGINT as a wish that the loop grants after the step under way."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

_WATCHED = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 1.0


class StopSignals:
    """While entered, the first signal is noted in `received`; a second Ctrl-C ends at once.

    A scheduler and `torchrun` between them often send the same signal twice: a repeated SIGTERM
    changes nothing, and a repeated SIGINT only does when it is too late to be an echo.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only, and lets no other thread ask for them.
        if threading.current_thread() is threading.main_thread():
            for signum in _WATCHED:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader process: it ends when told to; Ctrl-C is its parent's business.
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
        elif self.received is None:
            self.received, self._received_at = signum, time.monotonic()
        elif signum == signal.SIGINT and time.monotonic() - self._received_at > _ECHO_SECONDS:
            raise KeyboardInterrupt
