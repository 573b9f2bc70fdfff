"""AdamW and SGD by torch's own kernels, without torch's compiler.

The constructor, `zero_grad` and `step` of `torch.optim`'s classes import `torch._dynamo`, which
takes as long as all of torch; no run without `torch.compile` needs it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_kernel
from torch.optim.sgd import sgd as sgd_kernel


class LightOptimizer(Optimizer):
    """An optimiser whose groups are lists of distinct leaves; `update` is all that it has to say.

    Its rates are set from outside (`lr` of every group).
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group; what it does not say is as in `defaults`."""
        group = {**self.defaults, **param_group, "params": list(param_group["params"])}
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad.zero_()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if learning:
                self.update(group, learning, [p.grad for p in learning])
        return loss

    def update(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Change `parameters` of `group`, in place, by their gradients."""
        raise NotImplementedError


class AdamW(LightOptimizer):
    """`torch.optim.AdamW(groups, lr=0.0, fused=True)`, to the bit, of parameters on CPU or CUDA.

    Args:
        groups: parameter groups with `weight_decay`.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
    """

    # What a gradient scaler asks for: whether a step shall be left out is read on the device.
    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float
    ) -> None:
        defaults = {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.01, "fused": True}
        super().__init__(groups, defaults)

    def update(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        memory = [self._memory(parameter) for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw_kernel(
            parameters,
            grads,
            [kept["exp_avg"] for kept in memory],
            [kept["exp_avg_sq"] for kept in memory],
            [],
            [kept["step"] for kept in memory],
            fused=True,
            grad_scale=self.grad_scale,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _memory(self, parameter: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = self.state[parameter]
        if not kept:
            kept["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            kept["exp_avg"] = torch.zeros_like(parameter)
            kept["exp_avg_sq"] = torch.zeros_like(parameter)
        return kept


class SGD(LightOptimizer):
    """`torch.optim.SGD(groups, lr=0.0, momentum=momentum)`, to the bit.

    Args:
        groups: parameter groups, with or without `weight_decay`.
        momentum: of the running sum of gradients; 0 keeps none.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "dampening": 0.0, "nesterov": False})

    def update(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        sgd_kernel(
            parameters,
            grads,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )
        if group["momentum"]:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer
