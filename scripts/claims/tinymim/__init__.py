"""TinyMIM (arXiv 2301.01296): a real DeiT-Ti teaches a narrow ViT; a block of the teacher between
its middle and its end, as published."""

from typing import Any

from scripts.claims.claim import Arm


def taught(
    name: str, *, teacher: str | Arm = "deit", student: str = "student", **settings: Any
) -> Arm:
    """An arm of TinyMIM; settings with `__` for dots. A distilled teacher teaches by its last
    block, as by default."""
    usual: dict[str, Any] = {"method.student_color_jitter": None}
    if teacher == "deit" and settings.get("method__target") != "class_token":
        usual["teacher.block"] = 9
    said = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name, "tinymim", usual | said, teacher=teacher, student=student)
