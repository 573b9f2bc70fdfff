"""Parameters that a method sends no gradient to."""

from collections.abc import Sequence

from vistill.batch import Batch
from vistill.methods.base import Method
from vistill.methods.ranks import copied


def freeze_unreached(method: Method, batch: Batch) -> list[str]:
    """Freeze the parameters that `batch` sends no gradient to, and name them.

    A parameter behind the deepest tap (for TinyMIM: the last block's projection and MLP, spec 4.4)
    would otherwise sit in the optimiser and make DDP wait for a gradient that never comes. One
    forward and backward pass finds them for any method and any student; buffers and what the rank
    has for itself are put back.
    """
    return freeze_unreached_by_any(method, [batch])[0]


def freeze_unreached_by_any(method: Method, batches: Sequence[Batch]) -> tuple[list[str], bool]:
    """The same of parameters that none of several kinds of batches reaches; and whether some of
    these kinds reach more than others."""
    each = [_reached(method, batch) for batch in batches]
    every = set().union(*each)
    frozen = []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad and name not in every:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen, any(reached != every for reached in each)


def _reached(method: Method, batch: Batch) -> set[str]:
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    rank_state = copied(method.rank_state())
    was_training = method.training
    method.train()
    method(batch).total.backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    for parameter in method.parameters():
        parameter.grad = None
    for name, buffer in method.named_buffers():
        buffer.copy_(buffers[name])
    if rank_state:
        method.load_rank_state(rank_state)
    method.train(was_training)
    return reached
