"""Linear layers of a frozen model in int8 on a CPU: weights by output channel, what comes in by
picture at every call, so that no picture's result hangs on those beside it."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_LEAST = 64
"""Channels on both sides of a layer below which int8 gains nothing, and may lose much: the tables
of relative positions are made by such layers."""


class Pictures:
    """How many pictures the pass that is under way looks at; a model's layers share one."""

    def __init__(self) -> None:
        self.count = 1


class Int8Linear:
    """What a `Linear` computes, in int8; takes the place of its `forward`.

    Args:
        linear: on the host; it keeps its own weight, for those who read that.
        pictures: of the pass.
    """

    def __init__(self, linear: nn.Linear, pictures: Pictures) -> None:
        self.pictures, self.width = pictures, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).div(127).clamp_min(torch.finfo(torch.float32).tiny)
        bias = None if linear.bias is None else linear.bias.detach().float()
        with warnings.catch_warnings(), _onednn():
            # torch means to replace its quantized tensors; this product has no successor yet.
            warnings.simplefilter("ignore")
            packed = torch.quantize_per_channel(
                weight, scale.double(), torch.zeros(self.width, dtype=torch.long), 0, torch.qint8
            )
            self.weight: Any = torch.ops.quantized.linear_prepack(packed, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, in the type that autocast would give."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        rows = math.prod(x.shape[:-1])
        # Windows of a picture stand behind one another, in front of its tokens.
        each = self.pictures.count if x.shape[0] % self.pictures.count == 0 else 1
        found = x.new_empty((rows, self.width), dtype=dtype)
        count = max(1, rows // each)
        for mine, theirs in zip(found.split(count), x.reshape(rows, -1).split(count), strict=True):
            mine.copy_(torch.ops.quantized.linear_dynamic(theirs.float(), self.weight))
        return found.unflatten(0, x.shape[:-1])


def layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that int8 is for: wide ones, that compute as `Linear` does."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and min(module.weight.shape) >= _LEAST
    ]


@cache
def lacks_int8() -> str:
    """Why there is no fast int8 here; empty where there is."""
    if not torch.cpu._is_vnni_supported():
        return "this CPU has no instructions for it"
    try:
        product = Int8Linear(nn.Linear(_LEAST, _LEAST), Pictures())(torch.ones(1, _LEAST))
    except (AttributeError, RuntimeError):
        return f"torch {torch.__version__} has no such product"
    return "" if product.isfinite().all() else f"torch {torch.__version__} fails at it"


@contextmanager
def _onednn() -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
