"""Distances between pooled features, the published one and its variants (KDEP; spec kdep 8)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32, mse

Features = Float[Tensor, "b d"]


def normalized_mse(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean squared error of rows of length one; no ε, as published."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    return mse(
        student / student.norm(dim=1, keepdim=True), teacher / teacher.norm(dim=1, keepdim=True)
    )


def exponential_mse(
    student: Features, teacher: Features, temperature: float = 16.0
) -> Float[Tensor, ""]:
    """Mean squared error of exp(x / T)."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    return mse((student / temperature).exp(), (teacher / temperature).exp())


def softmax_squared(
    student: Features, teacher: Features, temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Squared error of softmax(x / T) over channels, summed over channels and batch."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    return difference.square().sum()


def sign_aligned_mse(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean squared error after multiplying each student row by the sign of its cosine."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    return mse(student * F.cosine_similarity(student, teacher).sign().detach()[:, None], teacher)


def angle(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Mean angle in radians between rows."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    return F.cosine_similarity(student, teacher, eps=1e-8).acos().mean()


def relational(
    student: Features, teacher: Features, distance: float = 25.0, angles: float = 50.0
) -> Float[Tensor, ""]:
    """Smooth L1 between the distances of pairs and between the angles of triples (RKD)."""
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    by_distance = F.smooth_l1_loss(_distances(student), _distances(teacher.detach()))
    by_angle = F.smooth_l1_loss(_angles(student), _angles(teacher.detach()))
    return distance * by_distance + angles * by_angle


def _distances(x: Tensor) -> Tensor:
    squares = x.square().sum(dim=1)
    gram = squares[:, None] + squares[None] - 2 * x @ x.mT
    off = 1 - torch.eye(len(x), device=x.device, dtype=x.dtype)
    distances = gram.clamp(min=1e-12).sqrt() * off
    # Summed over all: which ones are above zero, the host would have to ask the device.
    return distances / (distances.sum() / (distances > 0).sum())


def _angles(x: Tensor) -> Tensor:
    edges = F.normalize(x[None] - x[:, None], dim=2)
    return (edges @ edges.mT).flatten()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "normalized": normalized_mse,
    "exponential": exponential_mse,
    "softmax": softmax_squared,
    "sign_aligned": sign_aligned_mse,
    "angle": angle,
    "relational": relational,
}
"""By the name that `method.loss` of KDEP gives them."""
