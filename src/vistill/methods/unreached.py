"""Parameters that a method sends no gradient to."""

from vistill.batch import Batch
from vistill.methods.base import Method


def freeze_unreached(method: Method, batch: Batch) -> list[str]:
    """Freeze the parameters that `batch` sends no gradient to, and name them.

    A parameter behind the deepest tap (for TinyMIM: the last block's projection and MLP, spec 4.4)
    would otherwise sit in the optimiser and make DDP wait for a gradient that never comes. One
    forward and backward pass finds them for any method and any student; buffers are put back.
    """
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    was_training = method.training
    method.train()
    method(batch).total.backward()
    unreached = [
        name for name, p in method.named_parameters() if p.requires_grad and p.grad is None
    ]
    for name, parameter in method.named_parameters():
        parameter.grad = None
        if name in unreached:
            parameter.requires_grad_(False)
    for name, buffer in method.named_buffers():
        buffer.copy_(buffers[name])
    method.train(was_training)
    return unreached
