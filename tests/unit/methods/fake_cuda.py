"""A CUDA device without one: fake tensors have shape, type and device but no values, so that every
operation of a step can be asked where its parts are, and nothing can be read by the host."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vistill.batch import Batch
from vistill.methods.base import Method

CUDA = torch.device("cuda", 0)


class Device(TorchDispatchMode):
    """Everything is made on the fake device; a tensor of the host is an error where it arises.

    It would be a copy that the device waits for, at every step.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.device != CUDA:
                raise AssertionError(f"{func} makes a tensor on the {tensor.device}")
        return found


def fake(value: Tensor) -> Tensor:
    """A tensor of the same shape and type on the fake device; under a `FakeTensorMode`."""
    return torch.empty(tuple(value.shape), dtype=value.dtype, device=CUDA)


def on_fake_cuda(method: Method) -> Method:
    """Parameters and buffers of the method and its teacher, as `to_device` moves them."""
    for module in [method, *([] if method.teacher is None else [method.teacher])]:
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    moved = nn.Parameter(fake(value), requires_grad=value.requires_grad)
                    part._parameters[name] = moved
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = fake(buffer)
    return method


def batch_on_fake_cuda(batch: Batch) -> Batch:
    """The same of a batch, of any kind."""

    def move(value: Any) -> Any:
        return fake(value) if isinstance(value, Tensor) else value

    inputs = {name: fake(value) for name, value in batch.inputs.items()}
    return replace(batch, **{k: move(v) for k, v in vars(batch).items()} | {"inputs": inputs})
