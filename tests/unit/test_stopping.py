"""The first signal is a wish, an echo is nothing, and forked loader processes go their own way."""

import os
import signal
import time

import pytest

from vistill import stopping
from vistill.stopping import StopSignals


def send(signum):
    os.kill(os.getpid(), signum)
    time.sleep(0.01)


def test_notes_the_first_and_restores():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.received is None
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "_ECHO_SECONDS", 0.0)
    with StopSignals() as stop:
        send(signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_forked_child_can_be_terminated_and_ignores_ctrl_c():
    with StopSignals() as stop:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            time.sleep(30)
            os._exit(0)
        time.sleep(0.05)
        os.kill(child, signal.SIGINT)
        time.sleep(0.05)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 143
        assert stop.received is None
