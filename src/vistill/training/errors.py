"""How a run ends early: with a fault that names its place, or because it was asked to."""

import signal


class TrainingError(Exception):
    """A run cannot go on; the message says where and why. The command line exits with code 1."""


class Interrupted(Exception):
    """SIGTERM or SIGINT ended the run after a finished, saved step.

    Attributes:
        exit_code: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signal.Signals(signum)
        self.exit_code = 128 + signum
