"""One file a method; `build_method` finds it by name."""

from collections.abc import Callable, Mapping
from typing import Any

from vistill.errors import UserError
from vistill.methods.amd import build_amd
from vistill.methods.base import Ingredients, Method
from vistill.methods.feature_distillation import build_feature_distillation
from vistill.methods.kdep import build_kdep
from vistill.methods.mae import build_mae
from vistill.methods.tinymim import build_tinymim
from vistill.methods.videomae import build_videomae
from vistill.models.backbone import Backbone

BUILDERS: dict[str, Callable[[Ingredients], Method]] = {
    "amd": build_amd,
    "feature_distillation": build_feature_distillation,
    "kdep": build_kdep,
    "mae": build_mae,
    "tinymim": build_tinymim,
    "videomae": build_videomae,
}


def build_method(
    name: str,
    student: Backbone,
    teacher: Backbone | None,
    *,
    options: Mapping[str, Any],
    teacher_block: int | None = None,
    teacher_drop_path: float = 0.0,
    student_drop_path: float | None = None,
) -> Method:
    """The method `name` around a student and, where it has one, a teacher.

    Args:
        options: the method's own switches, as in `vistill.config.methods`.
        teacher_block: block of the teacher that is read, counted from 1.
        teacher_drop_path: drop path rate of the teacher.
        student_drop_path: drop path rate of the student; None: the method's own.

    Raises:
        UserError: if method, student and teacher do not fit together.
    """
    if name not in BUILDERS:
        raise UserError(f"unknown method {name!r}; there are {', '.join(BUILDERS)}")
    given = Ingredients(
        student, teacher, options, teacher_block, teacher_drop_path, student_drop_path
    )
    return BUILDERS[name](given)
