"""Distances between a student's tensor and its target; all means over every element, in fp32 or
better whatever the autocast type."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in its own type where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def smooth_l1(
    prediction: Float[Tensor, "*s"], target: Float[Tensor, "*s"], beta: float = 2.0
) -> Float[Tensor, ""]:
    """0.5 e²/β below β, |e| - 0.5 β above (TinyMIM, feature distillation; spec 5)."""
    return F.smooth_l1_loss(at_least_fp32(prediction), at_least_fp32(target), beta=beta)


def mse(prediction: Float[Tensor, "*s"], target: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Mean squared error."""
    return F.mse_loss(at_least_fp32(prediction), at_least_fp32(target))


def softmax_kl(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """KL(teacher || student) between softmaxes over channels, mean over the batch (spec 5)."""
    return F.kl_div(
        at_least_fp32(student).log_softmax(dim=-1),
        at_least_fp32(teacher).log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )
