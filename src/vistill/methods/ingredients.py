"""What a method is built from, and the record of what it has read of that."""

from typing import Any, Literal, TypeVar

from vistill.config.options import checked_options
from vistill.config.section import Section
from vistill.errors import UserError
from vistill.losses.video_text import Words
from vistill.models.backbone import Backbone

S = TypeVar("S", bound=Section)


class Ingredients:
    """Student, teacher and settings of a run, for the method that is built from them.

    A setting that the user gave and the method never asked for is an error (`check_all_used`), so
    that none is ignored without a word.

    Args:
        method: its name.
        student: the model to be trained.
        teacher: the frozen model, or None.
        config: the method's section, as in `vistill.config.methods`.
        teacher_block: block of the teacher that is read, counted from 1, or `last`; None: the
            method's own.
        teacher_drop_path: drop path rate of the teacher; 0: none.
        student_drop_path: drop path rate of the student; None: the method's own.
        num_classes: how many classes the labels of the pictures tell apart; or why they do not.
        words: special tokens of the captions' vocabulary, where the method reads captions.
    """

    def __init__(
        self,
        method: str,
        student: Backbone,
        teacher: Backbone | None,
        config: Any = None,
        teacher_block: int | Literal["last"] | None = None,
        teacher_drop_path: float = 0.0,
        student_drop_path: float | None = None,
        num_classes: int | str = "the pictures have no labels",
        words: Words | None = None,
    ) -> None:
        self.method, self.student, self.config = method, student, config
        self._num_classes, self._words = num_classes, words
        self._teacher = teacher
        self._given = {
            "teacher.block": teacher_block,
            "teacher.drop_path": teacher_drop_path or None,
            "student.drop_path": student_drop_path,
        }
        self._read: set[str] = set()

    def _ask(self, setting: str) -> Any:
        self._read.add(setting)
        return self._given[setting]

    @property
    def teacher(self) -> Backbone:
        """The frozen model; a UserError where there is none."""
        if self._teacher is None:
            raise UserError(
                f"{self.method} needs a teacher: give --teacher timm/NAME:pretrained, file:PATH "
                "or run:DIR"
            )
        return self._teacher

    @property
    def teacher_block(self) -> int | Literal["last"] | None:
        """Block of the teacher that is read, counted from 1, or `last`; None: the method's own."""
        return self._ask("teacher.block")

    @property
    def teacher_drop_path(self) -> float:
        """Drop path rate of the teacher."""
        return self._ask("teacher.drop_path") or 0.0

    @property
    def student_drop_path(self) -> float | None:
        """Drop path rate of the student; None: the method's own."""
        return self._ask("student.drop_path")

    @property
    def num_classes(self) -> int:
        """How many classes the labels tell apart; a UserError where there are no labels."""
        if isinstance(self._num_classes, str):
            raise UserError(f"{self.method} learns from labels, but {self._num_classes}")
        return self._num_classes

    @property
    def words(self) -> Words:
        """Special tokens of the captions' vocabulary; a UserError where there are no captions."""
        if self._words is None:
            raise UserError(f"{self.method} reads captions, and nobody said what cuts them")
        return self._words

    def options(self, section: type[S]) -> S:
        """The options of a method of the user's own (`method.options.…`), checked.

        Args:
            section: declares them, with types and defaults (`vistill.config.section.Section`).

        Raises:
            UserError: one is unknown (the nearest known one is named), or of another type.
        """
        return checked_options(section, self.config.options, "method.options")

    def check_all_used(self) -> None:
        """Raise a UserError if the user set something that the method did not ask for."""
        for setting, value in self._given.items():
            if value is not None and setting not in self._read:
                raise UserError(
                    f"{self.method} does not read {setting}, so {setting}={value} has no use; "
                    "leave it out"
                )
