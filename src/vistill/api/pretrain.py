"""`pretrain`: checks what it is asked before any work, then runs one student or a chain of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.config.chain import stage_config, stage_names
from vistill.config.loading import load_config, said_settings
from vistill.config.multi_student import student_name
from vistill.config.overrides import parse_overrides
from vistill.config.schema import RunConfig
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.runs.results import PretrainResult

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone
    from vistill.runs.adapting import Adapted
    from vistill.runs.reading import Reading

_WITHOUT_TEACHER = ("mae", "supervised", "videomae")


def pretrain(
    recipe: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    teacher: "str | Backbone | None" = None,
    teacher_weights: Literal["random"] | str | None = None,
    student: "str | Backbone | None" = None,
    chain: str | Sequence[str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> PretrainResult | None:
    """Pre-train a student, with a teacher where the method has one.

    The same call with the same folder continues an interrupted run.

    Args:
        recipe: a method, a packaged recipe or a `.yaml` file; None: TinyMIM's defaults.
        data: pictures or clips: a folder, a `.txt`/`.csv`/`.parquet` list, `.tar` shards, a `.zip`.
        out: folder of the run.
        teacher: `timm/NAME[:pretrained]`, the same with `torchvision/`, `hf/` and `open_clip/`,
            `hf/FOLDER`, `run:DIR`, `file:PATH` or a `Backbone`.
        teacher_weights: `random` allows a teacher that nobody trained.
        student: `vit_small` and the like, `timm/NAME`, `torchvision/NAME`, or a `Backbone`; several
            names separated by commas learn together from one pass of the teacher.
        chain: students of a sequential distillation, largest first, each taught by the one before;
            stages are folders `1-NAME`, `2-NAME`, ... in `out`, finished ones are skipped.
        overwrite: move an existing run aside (`OUT.old-1`) and start anew.
        dry_run: check everything, print the settings, write nothing and return None.
        overrides: settings over the recipe, `["optim.lr=1e-3"]`, `{"optim.lr": 1e-3}` or
            `{"optim": {"lr": 1e-3}}`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
        vistill.training.errors.TrainingError: the loss became infinite, or the disk is full.
        vistill.stopping.Interrupted: SIGTERM, SIGHUP or SIGINT; the run was saved.
    """
    settings = read_overrides(overrides)
    several = isinstance(student, str) and "," in student
    names = {"teacher": teacher, "student": student}
    objects = {side: model for side, model in names.items() if not isinstance(model, str | None)}
    flags = {
        "data.train": None if data is None else os.fspath(data),
        "teacher.model": _name(teacher),
        "teacher.weights": teacher_weights,
        "student.model": None if several else _name(student),
        "students": _several(student) if several else None,
        "chain": chain.split(",") if isinstance(chain, str) else chain and list(chain),
    }
    settings += [(key, value) for key, value in flags.items() if value is not None]
    config = load_config(recipe, settings)
    _check(config, student_given="student.model" in said_settings(None, settings))

    from vistill.runs.adapting import fit_to_place
    from vistill.runs.stage import prepare, rehearse, train_stage

    said = said_settings(recipe, settings)
    adapted, reading = fit_to_place(config, said, Path(out), overwrite=overwrite)
    if config.chain is not None:
        whole = {"overwrite": overwrite, "dry_run": dry_run}
        return _run_chain(adapted, reading, Path(out), objects, **whole)
    prepared = prepare(adapted, reading, **objects)
    if dry_run:
        rehearse(prepared, Path(out), overwrite=overwrite)
        return None
    return train_stage(prepared, Path(out), overwrite=overwrite)


def read_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Overrides as words or as a mapping of dotted keys."""
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    return parse_overrides(overrides)


def _several(models: Any) -> dict[str, Any]:
    """`students` from their models, separated by commas."""
    found = {student_name(model.strip()): {"model": model.strip()} for model in models.split(",")}
    if len(found) <= models.count(","):
        raise UserError(
            f"--student {models} names a model twice; give the students names of your own: "
            "students.NAME.model=MODEL"
        )
    return found


def _name(model: Any) -> str | None:
    if model is None or isinstance(model, str):
        return model
    from vistill.models.backbone import require_backbone

    return f"object:{type(require_backbone(model)).__name__}"


def _check(config: RunConfig, *, student_given: bool) -> None:
    """What the schema cannot see: settings that need or exclude each other."""
    method, teacher = config.method.name, config.teacher
    if config.data.train is None:
        raise UserError(f"{method} needs pictures or clips: give --data PATH")
    if method in _WITHOUT_TEACHER and (teacher.model or config.chain):
        what = "a chain" if config.chain else f"the teacher {teacher.model}"
        raise UserError(f"{method} learns without a teacher, so {what} has no use; leave it out")
    if method not in (*_WITHOUT_TEACHER, "custom") and teacher.model is None:
        raise UserError(
            f"{method} needs a teacher: give --teacher run:DIR, file:PATH or timm/NAME:pretrained"
        )
    if config.data.frames is not None and method == "mae":
        raise UserError(
            f"mae hides patches of pictures; for clips of data.frames={config.data.frames} use "
            "the method videomae"
        )
    if config.data.frames is not None and config.cache.path is not None:
        raise UserError(
            f"cache={config.cache.path} keeps what a teacher said about pictures; leave it out "
            f"for clips of data.frames={config.data.frames}"
        )
    if config.data.repeats > 1 and config.cache.path is not None:
        raise UserError(
            f"a cache holds one view of a picture per epoch, so data.repeats={config.data.repeats} "
            "cannot use it; leave one of them out"
        )
    if config.chain and config.cache.path is not None:
        raise UserError(
            f"every stage of a chain has another teacher, so none of them can use "
            f"cache={config.cache.path}; leave it out"
        )
    if config.students is not None:
        if config.chain or student_given or not config.students:
            other = "chain" if config.chain else "student.model"
            raise UserError(
                f"students and {other} both say who learns; leave one of them out"
                if config.students
                else "students names nobody; write students.NAME.model=MODEL"
            )
        if method in _WITHOUT_TEACHER:
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


def _run_chain(
    chain: "Adapted",
    reading: "Reading",
    out: Path,
    objects: dict[str, Any],
    *,
    overwrite: bool,
    dry_run: bool,
) -> PretrainResult | None:
    from copy import deepcopy

    from vistill.runs.build import build
    from vistill.runs.stage import (
        claim_chain,
        finished,
        prepare,
        publish_chain,
        rehearse,
        train_stage,
    )

    config = chain.config
    folders = [out / name for name in stage_names(config)]
    teachers = [None, *(f"run:{folder}" for folder in folders)]
    stages = [
        replace(chain, config=stage_config(config, i, teachers[i])) for i in range(len(folders))
    ]
    prepared = prepare(stages[0], reading, **objects)
    pupil = deepcopy(prepared.method.student)
    for stage in stages[1:]:  # with untrained pupils: does every stage fit the next?
        pupil = build(
            stage.config, teacher=pupil, untrained=True, num_classes=prepared.num_classes
        ).student
    with claim_chain(chain, out, overwrite=overwrite, dry_run=dry_run):
        if dry_run:
            rehearse(prepared, folders[0], overwrite=overwrite)
            return None
        results = [finished(folders[0]) or train_stage(prepared, folders[0])]
        del prepared, pupil  # or the first teacher would stay in memory to the end
        for stage, folder in zip(stages[1:], folders[1:], strict=True):
            results.append(finished(folder) or train_stage(prepare(stage, reading), folder))
        return publish_chain(out, results)
