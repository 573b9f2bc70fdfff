"""What no single setting shows: those that need or exclude each other."""

from importlib.util import find_spec

from vistill.config.schema import RunConfig
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError


def check_conflicts(config: RunConfig, *, student_given: bool) -> None:
    """What the schema cannot see: settings that need or exclude each other."""
    method, teacher, needs = config.method.name, config.teacher, config.method.needs_teacher
    if config.data.train is None and config.data.sources is None:
        raise UserError(f"{method} needs pictures or clips: give --data PATH")
    if config.data.mixed and not config.method.takes_mixed_media:
        raise UserError(
            f"{method} learns from pictures or from clips, and data.sources holds "
            f"{config.data.mixed}; leave out the sources of one kind"
        )
    if needs is False and (teacher.model or config.chain):
        what = "a chain" if config.chain else f"the teacher {teacher.model}"
        raise UserError(f"{method} learns without a teacher, so {what} has no use; leave it out")
    if needs and teacher.model is None:
        raise UserError(
            f"{method} needs a teacher: give --teacher run:DIR, file:PATH or timm/NAME:pretrained"
        )
    if config.data.frames is not None and not config.method.takes_clips:
        raise UserError(
            f"{method} hides patches of pictures; for clips of data.frames={config.data.frames} "
            "use the method videomae"
        )
    if config.students is not None:
        if config.chain or student_given or not config.students:
            other = "chain" if config.chain else "student.model"
            raise UserError(
                f"students and {other} both say who learns; leave one of them out"
                if config.students
                else "students names nobody; write students.NAME.model=MODEL"
            )
        if needs is False:
            raise UserError(
                f"{method} learns without a teacher, so {len(config.students)} students share "
                "nothing; train one at a time"
            )
    if config.chain and student_given:
        raise UserError("a chain names its students itself: give --chain or --student, not both")
    for extra in config.train.loggers:
        if find_spec(extra) is None:
            raise UserError(f"train.loggers={extra} needs an extra: pip install 'vistill[{extra}]'")
    for name in config.chain or ():
        if ".py:" in name:
            raise UserError(
                f"a chain's students teach by what their runs hold, and only you can build {name}; "
                "distil into it by a run of its own"
            )
    for name in config.chain or (config.student.model,):
        _check_name(name)
    for student in (config.students or {}).values():
        _check_name(student.model)


def _check_name(name: str) -> None:
    from vistill.models.sizes import LIBRARIES, SWIN_SIZES, VIT_SIZES, is_function

    own = [*VIT_SIZES, *SWIN_SIZES, "vit"]
    if name not in own and not name.startswith((*LIBRARIES, "object:")) and not is_function(name):
        raise UserError(f"unknown model {name!r}{did_you_mean(name, own)}")
