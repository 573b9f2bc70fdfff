"""Student width to teacher width."""

from torch import nn


def linear_projector(student_dim: int, teacher_dim: int) -> nn.Linear:
    """A linear layer per token (a 1×1 convolution), Xavier-uniform with zero bias (spec 5)."""
    layer = nn.Linear(student_dim, teacher_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
