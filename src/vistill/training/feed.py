"""Batches on their way from a stream to the step."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vistill.batch import Batch

Start = Callable[[Batch], Callable[[], Batch]]
"""Begins to copy a batch to the device; what it returns gives the batch, once the copy is there."""


class Feed:
    """The batches of a stream, with the seconds that the loop waited for them.

    Args:
        batches: on the host.
        start: copies them to the device, one step ahead; None: they stay where they are, and none
            is taken ahead.
    """

    def __init__(self, batches: Iterator[Batch], start: Start | None = None) -> None:
        self._source = self._batches = batches
        self._start = start
        self._ahead: Callable[[], Batch] | None = None
        self.waited = 0.0

    def peek(self) -> Batch:
        """The next batch, on the host, which stays the next."""
        first = next(self._batches)
        self._batches = itertools.chain([first], self._batches)
        return first

    def take(self) -> Batch:
        """The next batch."""
        started = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        batch = ahead() if ahead is not None else self._copied(next(self._batches))
        self.waited += time.perf_counter() - started
        return batch

    def fetch(self) -> None:
        """Take the next batch from the stream and begin to copy it, while the device is busy.

        Whatever keeps it from coming is raised where it is taken, and so is the end.
        """
        if self._start is None or self._ahead is not None:
            return
        started = time.perf_counter()
        try:
            self._ahead = self._start(next(self._batches))
        except Exception as error:
            self._ahead = _raising(error)
        self.waited += time.perf_counter() - started

    def close(self) -> None:
        """End the stream's work behind the scenes."""
        self._ahead = None
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def _copied(self, batch: Batch) -> Batch:
        return batch if self._start is None else self._start(batch)()


def copier(device: torch.device) -> Start | None:
    """How batches get to a CUDA device: from pinned memory, on a stream beside that of the step.

    A copy from pageable memory would make the host wait, and one on the same stream the step.
    """
    if device.type != "cuda":
        return None
    beside = torch.cuda.Stream(device)

    def start(batch: Batch) -> Callable[[], Batch]:
        pinned = _each(batch, lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())
        with torch.cuda.stream(beside):
            copied = replace(pinned, cached=None).to(device)

        def there() -> Batch:
            step = torch.cuda.current_stream(device)
            step.wait_stream(beside)
            # Its memory must not be given away while the step still reads it.
            _each(copied, lambda tensor: _read_by(step, tensor))
            # What a cache gives has copies of its own, on the stream of the step.
            return replace(copied, cached=batch.cached and batch.cached.to(device))

        return there

    return start


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Every tensor of a batch, of any kind, changed."""
    found: dict[str, Any] = {
        name: change(value) if isinstance(value, Tensor) else value
        for name, value in vars(batch).items()
    }
    found["inputs"] = {name: change(value) for name, value in batch.inputs.items()}
    return replace(batch, **found)


def _read_by(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    tensor.record_stream(stream)
    return tensor


def _raising(error: Exception) -> Callable[[], Batch]:
    def there() -> Batch:
        raise error

    return there
