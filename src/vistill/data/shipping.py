"""Answers from a loader process to the main one, their tensors in anonymous memory.

The memory is a file without a name (`memfd_create`), so that the size of `/dev/shm`, small in
containers, bounds nothing.
"""

import io
import mmap
import os
import pickle
from math import prod
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNED = 64


class _Place(NamedTuple):
    """Where a tensor lies in the memory, and how."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape) * self.dtype.itemsize


class _Pickler(pickle.Pickler):
    """Leaves tensors out, and lists them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, text: bytes, tensors: list[Tensor]) -> None:
        super().__init__(io.BytesIO(text))
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]


class Parcel:
    """An object ready to be sent; tensors on the host keep their strides.

    Raises:
        OSError: there is no memory for it.
    """

    def __init__(self, answer: Any) -> None:
        text = io.BytesIO()
        pickler = _Pickler(text)
        pickler.dump(answer)
        dense = [_dense(tensor) for tensor in pickler.tensors]
        places: list[_Place] = []
        size = 0
        for tensor, _ in dense:
            size = -(-size // _ALIGNED) * _ALIGNED
            places.append(_Place(size, tensor.dtype, tuple(tensor.shape), tensor.stride()))
            size = places[-1].stop
        self._handle, self._memory = _memory(size)
        self._head = pickle.dumps((text.getvalue(), places, size, self._handle is not None))
        for (_, flat), place in zip(dense, places, strict=True):
            self._write(place.start, flat)

    def _write(self, start: int, flat: Tensor) -> None:
        room = memoryview(flat.numpy())  # type: ignore[arg-type]
        if self._handle is None:
            self._memory[start : start + len(room)] = room
            return
        while room:  # written, not mapped: a page fault for every page costs more
            done = os.pwrite(self._handle, room, start)
            start, room = start + done, room[done:]

    def send(self, connection: Connection) -> None:
        """Send it to the other end's `receive`, once."""
        connection.send_bytes(self._head)
        if self._handle is None:
            if self._memory:
                connection.send_bytes(self._memory)
            return
        try:
            send_handle(connection, self._handle, None)
        finally:
            os.close(self._handle)


def receive(connection: Connection) -> Any:
    """What the other end has sent.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    text, places, size, shared = pickle.loads(connection.recv_bytes())
    tensors: list[Tensor] = []
    if size:
        if shared:
            handle = recv_handle(connection)
            try:
                memory: Any = mmap.mmap(handle, size)
            finally:
                os.close(handle)
        else:
            memory = bytearray(connection.recv_bytes())
        room = torch.frombuffer(memory, dtype=torch.uint8)
    for place in places:
        if place.start == place.stop:
            tensors.append(torch.empty_strided(place.shape, place.stride, dtype=place.dtype))
        else:
            flat = room[place.start : place.stop].view(place.dtype)
            tensors.append(flat.as_strided(place.shape, place.stride))
    return _Unpickler(text, tensors).load()


def _dense(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor without holes in its memory, and that memory as bytes."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    inner = tensor.permute(order)
    if not inner.is_contiguous():
        inner = tensor = tensor.contiguous()
    return tensor, inner.reshape(-1).view(torch.uint8)


def _memory(size: int) -> tuple[int | None, bytearray]:
    """A file in memory; or plain memory, where there is nothing to hold or no such file."""
    if size and hasattr(os, "memfd_create"):
        try:
            handle = os.memfd_create("vistill")
        except OSError:
            return None, bytearray(size)
        os.ftruncate(handle, size)
        return handle, bytearray()
    return None, bytearray(size)
