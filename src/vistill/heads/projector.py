"""Student width to teacher width."""

import itertools
from typing import Literal

from torch import nn


def linear_projector(student_dim: int, teacher_dim: int) -> nn.Linear:
    """A linear layer per token (a 1×1 convolution), Xavier-uniform with zero bias (spec 5)."""
    layer = nn.Linear(student_dim, teacher_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def unbiased_projector(
    kind: Literal["linear", "mlp"], student_dim: int, teacher_dim: int
) -> nn.Module:
    """AMD's projection: one linear layer per token without bias, or two with a GELU between
    (spec amd 6); Xavier-uniform."""
    widths = [student_dim, teacher_dim, teacher_dim][: 2 if kind == "linear" else 3]
    layers = [nn.Linear(*ends, bias=False) for ends in itertools.pairwise(widths)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
    return layers[0] if kind == "linear" else nn.Sequential(layers[0], nn.GELU(), layers[1])


def feature_projector(
    kind: Literal["linear", "mlp", "identity"], student_dim: int, teacher_dim: int
) -> nn.Module:
    """Feature distillation's projector, initialised as PyTorch does it (spec fd 1, 3.3).

    Args:
        kind: one linear layer per token (a 1×1 convolution), two with a GELU between, or nothing.
        student_dim: width that comes in.
        teacher_dim: width that goes out; equal to `student_dim` for `identity`.
    """
    if kind == "identity":
        return nn.Identity()
    first = nn.Linear(student_dim, teacher_dim)
    if kind == "linear":
        return first
    return nn.Sequential(first, nn.GELU(), nn.Linear(teacher_dim, teacher_dim))


def conv1x1(student_dim: int, teacher_dim: int) -> nn.Sequential:
    """KDEP's parametric baseline: linear layer and batch norm on a feature (spec kdep 6)."""
    linear = nn.Linear(student_dim, teacher_dim)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(teacher_dim))
