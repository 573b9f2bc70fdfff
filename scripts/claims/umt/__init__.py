"""UMT (arXiv 2303.16058): a real DeiT-Ti that sees whole frames teaches a student of clips."""

from typing import Any

from scripts.claims.claim import Arm


def taught(name: str, *, student: str = "frame by frame", **settings: Any) -> Arm:
    """An arm of UMT; settings with `__` for dots."""
    usual = {"method.aligned_layers": 2, "teacher.image_size": 96}
    said = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name, "umt", usual | said, teacher="deit", student=student)
