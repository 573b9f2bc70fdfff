"""A reader of numbers that hangs, dies or fails where it is told to."""

import faulthandler
import os
import signal
import time
from typing import Any

import torch

from vistill.data.loader import Request
from vistill.data.processes import beat

__all__ = ["Numbers", "Request"]


class Numbers:
    def __init__(
        self,
        *,
        hangs_at: int = -1,
        signals: int = 0,
        dies_at: int = -1,
        signum: int = signal.SIGKILL,
        fails_at: int = -1,
        pause: float = 0.0,
        heavy: int = 0,
    ) -> None:
        self.hangs_at, self.dies_at, self.signum = hangs_at, dies_at, signum
        self.signals = signals
        self.fails_at, self.pause, self.heavy = fails_at, pause, heavy

    def name(self, sample: int) -> str:
        return f"sample {sample}"

    def __call__(self, request: Request) -> dict[str, Any]:
        for sample in request.samples.tolist():
            beat(sample)
            time.sleep(self.pause)
            if sample == self.hangs_at:
                if self.signals:
                    os.kill(self.signals, signal.SIGTERM)
                time.sleep(1000)
            if sample == self.dies_at:
                faulthandler.disable()
                os.kill(os.getpid(), self.signum)
                time.sleep(1000)
            if sample == self.fails_at:
                raise ZeroDivisionError(f"at {sample}")
        answer = {"numbers": torch.from_numpy(request.samples)}
        if self.heavy:
            answer["heavy"] = torch.full((self.heavy,), len(request.samples), dtype=torch.uint8)
        return answer
