"""Tests run in as many processes as there are processors, so that each has one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Make this process one that can be forked: a fork of it computes gradients only if autograd
    began here without a device. Tests of devices are therefore run alone, by `-m gpu`, and autograd
    begins before the first `FakeTensorMode`, which is a device to it (findings/)."""
    if config.getoption("markexpr") == "gpu":
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]
