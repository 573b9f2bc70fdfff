"""Feature distillation (arXiv 2205.14141): the whitened output of a real DeiT-Ti is learned."""

from typing import Any

from scripts.claims.claim import Arm


def taught(name: str, *, student: str = "student", **settings: Any) -> Arm:
    """An arm of feature distillation; settings with `__` for dots."""
    said = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name, "feature_distillation", said, teacher="deit", student=student)
