"""One file a method; `build_method` finds it by name."""

from collections.abc import Mapping
from typing import Any

from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.mae import MAE
from vistill.methods.tinymim import TinyMIM
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer


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
    if name == "mae":
        if not isinstance(student, VisionTransformer) or not student.num_prefix_tokens:
            raise UserError("mae needs a plain ViT student with a class token")
        if student_drop_path:
            student.set_drop_path(student_drop_path)
        return MAE(student, **options)
    if name == "tinymim":
        if teacher is None:
            raise UserError(
                "tinymim needs a teacher: give --teacher timm/NAME:pretrained or run:DIR"
            )
        return TinyMIM(
            student,
            teacher,
            teacher_block=teacher_block,
            teacher_drop_path=teacher_drop_path,
            student_drop_path=0.1 if student_drop_path is None else student_drop_path,
            **options,
        )
    raise UserError(f"unknown method {name!r}; there are mae and tinymim")
