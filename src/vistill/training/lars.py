"""LARS as the published MAE linear probe uses it (You et al., arXiv 1708.03888; spec 7)."""

from typing import Any

import torch
from torch import Tensor

from vistill.training.optimizers import LightOptimizer


class LARS(LightOptimizer):
    """Layer-wise adaptive rate scaling with momentum.

    Weight decay is added to the gradient before the trust ratio; 1-D parameters get neither. The
    momentum buffer is m = momentum·m + g, the step −lr·m.

    Args:
        params: parameters or groups.
        lr: learning rate.
        weight_decay: added to the gradient of matrices.
        momentum: of the running sum of gradients.
        trust_coefficient: scale of ‖parameter‖ / ‖gradient‖.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    def update(self, group: dict[str, Any], parameters: list[Tensor], grads: list[Tensor]) -> None:
        for parameter, gradient in zip(parameters, grads, strict=True):
            self._change(parameter, gradient, group)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if parameter.ndim > 1:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
            size, slope = parameter.norm(), gradient.norm()
            ratio = group["trust_coefficient"] * size / slope
            adapted = torch.where((size > 0) & (slope > 0), ratio, torch.ones_like(ratio))
            gradient = gradient * adapted
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(gradient)
        parameter.sub_(buffer, alpha=group["lr"])
