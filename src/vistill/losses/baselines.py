"""Baselines that KDEP is compared with: labels, logits, and flow between stages (spec kdep 8)."""

import math

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.losses.distances import at_least_fp32


def label_cross_entropy(
    scores: Float[Tensor, "b c"], labels: Int[Tensor, " b"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the samples with a label; 0 where none has one.

    Args:
        scores: class scores.
        labels: class indices, -1 where unknown.
        smoothing: share of the target that is spread over all classes.
    """
    known = (labels >= 0).sum().clamp(min=1)
    total = F.cross_entropy(
        at_least_fp32(scores),
        labels,
        ignore_index=-1,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / known


def logits_kl(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    temperature: float = 4.0,
    entropy_share: float | None = None,
) -> Float[Tensor, ""]:
    """T² KL(softmax(t / T) || softmax(s / T)), summed over classes, over the batch size.

    Args:
        student, teacher: class scores.
        temperature: T.
        entropy_share: keep only samples whose teacher entropy (at T = 1) is at most this share of
            the largest possible one; the divisor stays the whole batch. None keeps all.
    """
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    wanted = (teacher / temperature).log_softmax(dim=1)
    found = (student / temperature).log_softmax(dim=1)
    rows = F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)
    if entropy_share is not None:
        log_p = teacher.log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        rows = rows.masked_fill(~(entropy <= entropy_share * math.log(teacher.shape[1])), 0.0)
    return temperature**2 * rows.sum() / len(student)
