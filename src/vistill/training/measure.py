"""What the loop measures without making the device wait: sums, faults, waiting time, memory."""

import resource
import sys
from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.training.state import Totals


class Sums:
    """Running sums on the device, and the first step at which something was not finite."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    def _reset(self) -> None:
        self._total: dict[str, Tensor] = {}
        self._count: dict[str, int] = defaultdict(int)
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=self._device)

    def add(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add a scalar to the sum of `name`."""
        value = value.detach().float()
        self._total[name] = self._total[name] + value if name in self._total else value
        self._count[name] += 1

    def check(self, value: Float[Tensor, ""], step: int) -> None:
        """Note `step` if `value` is not finite and no earlier step was noted."""
        fault = ~torch.isfinite(value.detach()) & (self._bad_step < 0)
        self._bad_step.masked_fill_(fault, step)

    def take(self) -> tuple[Totals, int]:
        """(sum, count) of every name and the first bad step (-1: none); the one host read."""
        stacked = torch.stack([t.double() for t in (*self._total.values(), self._bad_step)])
        *values, bad = stacked.tolist()
        sums = {name: (v, self._count[name]) for name, v in zip(self._total, values, strict=True)}
        self._reset()
        return sums, int(bad)


def peak_memory_gb(device: torch.device) -> float:
    """Peak gigabytes: allocated on the CUDA device, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


@dataclass(frozen=True)
class RankReport:
    """What one rank tells the others in a report."""

    sums: Totals
    bad_step: int
    signal: int | None
    save: bool
    data_wait: float
    memory_gb: float
    next_report: int


def merge_totals(ranks: list[Totals]) -> Totals:
    """The totals of all ranks."""
    merged: Totals = {}
    for name in ranks[0]:
        totals, counts = zip(*(sums[name] for sums in ranks), strict=True)
        merged[name] = (sum(totals), sum(counts))
    return merged
