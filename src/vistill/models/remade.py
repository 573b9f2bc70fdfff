"""A linear layer behind a norm or an activation that keeps less for the backward pass.

Autograd would keep what the linear layer reads, four widths of a token behind an MLP's activation
and one behind each norm: over a third of what a block keeps. It is made again from what these read,
which is kept anyway, at the cost of one elementwise pass.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Made = nn.LayerNorm | Callable[[Tensor], Tensor]
"""A layer norm, or a function without parameters."""


def linear_behind(made: Made, linear: nn.Module, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
    """`linear(made(x))`; where a gradient is wanted, `made(x)` is not kept for it."""
    modules = [part for part in (made, linear) if isinstance(part, nn.Module)]
    heard = any(part._forward_hooks or part._forward_pre_hooks for part in modules)
    if heard or _as_usual() or not isinstance(linear, nn.Linear):
        return linear(made(x))
    return product_behind(made, x, linear.weight, linear.bias)


def product_behind(
    made: Made,
    x: Float[Tensor, "*b n"],
    weight: Float[Tensor, "m n"],
    bias: Float[Tensor, " m"] | None,
) -> Float[Tensor, "*b m"]:
    """The same, of a weight and a bias."""
    if _as_usual():
        return F.linear(made(x), weight, bias)
    if isinstance(made, nn.LayerNorm):
        scales = [scale for scale in (made.weight, made.bias) if scale is not None]
        return _Product.apply(x, weight, bias, _norm(made.normalized_shape, made.eps), *scales)
    return _Product.apply(x, weight, bias, made)


def _as_usual() -> bool:
    """Whether nothing is kept anyway, or a compiler decides what is."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def _norm(shape: tuple[int, ...], eps: float) -> Callable[..., Tensor]:
    def norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, shape, weight, bias, eps)

    return norm


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        made: Callable[..., Tensor],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.made, read = made, made(x, *parameters)
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            # By hand: autocast would hand on its copies, which learn nothing here, to other layers.
            dtype = torch.get_autocast_dtype(x.device.type)
            read, weight = read.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        ctx.save_for_backward(x, weight, *parameters)
        return F.linear(read, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        x, weight, *parameters = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _, *wants_parameters = ctx.needs_input_grad
        wants = [wants_x, *wants_parameters]
        read = [
            tensor.detach().requires_grad_(wanted)
            for tensor, wanted in zip((x, *parameters), wants, strict=True)
        ]
        with torch.set_grad_enabled(any(wants)):
            made = ctx.made(*read)
        found: Iterator[Tensor] = iter(())
        if any(wants):
            to_made = (gradient @ weight).to(made.dtype)
            found = iter(torch.autograd.grad(made, [t for t in read if t.requires_grad], to_made))
        rows = gradient.flatten(0, -2)
        to_weight = rows.T @ made.detach().flatten(0, -2).to(rows.dtype) if wants_weight else None
        to_bias = rows.sum(dim=0) if wants_bias else None
        to_x, *others = [next(found) if wanted else None for wanted in wants]
        return to_x, to_weight, to_bias, None, *others
