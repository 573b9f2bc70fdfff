"""A frozen model that computes in a type of its own, whoever calls it and whatever they compute in;
and its weights kept in that type, which gives bit for bit what autocast gives and halves them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vistill.models.backbone import Backbone
from vistill.models.int8 import Int8Linear, Pictures, layers

Precision = Literal["fp32", "bf16", "fp16", "int8"]

AUTOCAST: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_ENTRIES = ("tap", "finish_block", "final_norm", "project")
"""What a method calls of a model."""
_PRODUCTS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention
_NAMES = "weight", "bias", "in_proj_weight", "in_proj_bias"


def run_in(model: Backbone, precision: Precision, beside: Precision = "fp32") -> Callable[[], None]:
    """Let `model` compute in `precision` from now on; its weights stay as they are.

    Args:
        model: frozen; on the host for `int8`.
        precision: of it.
        beside: with `int8`, of what is no wide `Linear`.

    Returns:
        What undoes it.
    """
    dtype = AUTOCAST[beside if precision == "int8" else precision]
    changed: list[nn.Linear] = []
    pictures = None
    if precision == "int8":
        pictures, changed = Pictures(), layers(model)
        for linear in changed:
            vars(linear)["forward"] = Int8Linear(linear, pictures)
    names = [name for name in _ENTRIES if hasattr(model, name)]
    full = model.input_type
    for name in names:
        vars(model)[name] = _computing(getattr(model, name), dtype, full, pictures)
    before = model.precision, model.computes_in, model.full_type
    model.precision, model.computes_in, model.full_type = precision, dtype, full

    def undo() -> None:
        for name in names:
            del vars(model)[name]
        for linear in changed:
            del vars(linear)["forward"]
        model.precision, model.computes_in, model.full_type = before

    return undo


def keep_weights(model: Backbone) -> None:
    """Keep the weights of products in the type that `run_in` gave `model`, for good.

    Norms, positions and scales stay as they are: autocast leaves them in fp32, too. So do layers
    that make another use of their weight than `Linear` and `Conv` do, such as a standardised one.
    """
    if model.computes_in is None:
        return
    for module in model.modules():
        for product in _PRODUCTS:
            if isinstance(module, product) and type(module).forward is product.forward:
                for name, parameter in module.named_parameters(recurse=False):
                    if name in _NAMES and parameter.dtype == torch.float32:
                        parameter.data = parameter.data.to(model.computes_in)


def _computing(
    call: Callable[..., Any],
    dtype: torch.dtype | None,
    full: torch.dtype,
    pictures: Pictures | None,
) -> Callable[..., Any]:
    """`call` in `dtype`. Outside of such an autocast what it returns is in the `full` type."""

    @wraps(call)
    def computing(*arguments: Any, **options: Any) -> Any:
        first = next(one for one in arguments if isinstance(one, Tensor))
        kind = first.device.type
        run = call
        if pictures is not None:
            pictures.count = len(first)
            if torch.compiler.is_compiling():
                run = torch.compiler.disable(call)  # no compiler knows its products
        outside = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            found = run(*arguments, **options)
        if outside == dtype:
            return found
        if isinstance(found, dict):
            return {tap: signal.to(full) for tap, signal in found.items()}
        return found.to(full)

    return computing
