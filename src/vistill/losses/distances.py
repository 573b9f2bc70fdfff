"""Distances between a student's tensor and its target; all means over every element, in fp32 or
better whatever the autocast type."""

from collections.abc import Callable
from functools import partial
from typing import Literal

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


def l1(prediction: Float[Tensor, "*s"], target: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    """Mean absolute error."""
    return F.l1_loss(at_least_fp32(prediction), at_least_fp32(target))


def cosine(prediction: Float[Tensor, "*b d"], target: Float[Tensor, "*b d"]) -> Float[Tensor, ""]:
    """One minus the cosine over channels, mean over tokens."""
    similarity = F.cosine_similarity(at_least_fp32(prediction), at_least_fp32(target), dim=-1)
    return (1 - similarity).mean()


def feature_distance(
    loss: Literal["smooth_l1", "mse", "l1", "cosine"], beta: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Feature distillation's distance by name; `beta` is smooth L1's."""
    if loss == "smooth_l1":
        return partial(smooth_l1, beta=beta)
    return {"mse": mse, "l1": l1, "cosine": cosine}[loss]


def softmax_kl(
    student: Float[Tensor, "b d"], teacher: Float[Tensor, "b d"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """KL(teacher || student) between softmaxes over channels, mean over the batch (spec 5).

    With a temperature T both sides are divided by T and the loss is multiplied by T².
    """
    return temperature**2 * F.kl_div(
        (at_least_fp32(student) / temperature).log_softmax(dim=-1),
        (at_least_fp32(teacher) / temperature).log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )
