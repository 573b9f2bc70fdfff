"""A frozen model through torch's compiler, as far as hooks allow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from vistill.models.backbone import Backbone


def compile_teacher(model: Backbone) -> Callable[[], None]:
    """Compile what a method reads of `model`; what undoes it.

    A model of vistill's own is compiled whole. One that is read by hooks is left by an exception at
    its deepest tap, and its hooks come and go, which no graph can hold: its blocks are compiled,
    each for itself, and run as they are where a hook looks inside, or where a pass is watched for
    its attention calls. No compiler knows the products of int8, so such a model stays as it is.
    """
    if model.precision == "int8":
        return lambda: None
    blocks: Any = getattr(model, "blocks", None)
    if isinstance(blocks, list):  # of an adapter
        for block in blocks:
            block.__dict__["forward"] = _Block(block)

        def plain_blocks() -> None:
            for block in blocks:
                del block.__dict__["forward"]

        return plain_blocks
    before = vars(model).get("tap")
    vars(model)["tap"] = torch.compile(model.tap)

    def undo() -> None:
        del vars(model)["tap"]
        vars(model).update({} if before is None else {"tap": before})

    return undo


class _Block:
    """Takes the place of a block's `forward`."""

    def __init__(self, block: nn.Module) -> None:
        self.parts = [part for part in block.modules() if part is not block]
        self.plain, self.fast = block.forward, torch.compile(block.forward)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        watched = _get_current_function_mode_stack() or any(
            part._forward_hooks or part._forward_pre_hooks for part in self.parts
        )
        return (self.plain if watched else self.fast)(*arguments, **options)
