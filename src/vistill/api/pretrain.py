"""`pretrain`: checks what it is asked before any work, then runs one student or a chain of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.config.loading import load_config, said_settings
from vistill.config.multi_student import student_models, student_name
from vistill.config.overrides import parse_overrides
from vistill.errors import UserError
from vistill.runs.conflicts import check_conflicts
from vistill.runs.results import PretrainResult

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone


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
    several = isinstance(student, str) and len(student_models(student)) > 1
    names = {"teacher": teacher, "student": student}
    objects = {side: model for side, model in names.items() if not isinstance(model, str | None)}
    flags = {
        "data.train": None if data is None else os.fspath(data),
        "teacher.model": _name(teacher),
        "teacher.weights": teacher_weights,
        "student.model": None if several else _name(student, bare=True),
        "students": _several(student) if several else None,
        "chain": chain.split(",") if isinstance(chain, str) else chain and list(chain),
    }
    settings += [(key, value) for key, value in flags.items() if value is not None]
    config = load_config(recipe, settings)
    check_conflicts(config, student_given="student.model" in said_settings(None, settings))

    from vistill.runs.adapting import fit_to_place
    from vistill.runs.chain import run_chain
    from vistill.runs.pretraining import prepare, rehearse, run_pretraining

    said = said_settings(recipe, settings)
    adapted, reading = fit_to_place(config, said, Path(out), overwrite=overwrite)
    if config.chain is not None:
        whole = {"overwrite": overwrite, "dry_run": dry_run}
        return run_chain(adapted, reading, Path(out), objects, **whole)
    begun = None if overwrite else Path(out)
    prepared = prepare(adapted, reading, out=begun, **objects)
    if dry_run:
        rehearse(prepared, Path(out), overwrite=overwrite)
        return None
    return run_pretraining(prepared, Path(out), overwrite=overwrite)


def read_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Overrides as words or as a mapping of dotted keys."""
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    return parse_overrides(overrides)


def _several(models: Any) -> dict[str, Any]:
    """`students` from their models, separated by commas."""
    names = student_models(models)
    found = {student_name(name): {"model": name} for name in names}
    if len(found) < len(names):
        raise UserError(
            f"--student {models} names a model twice; give the students names of your own: "
            "students.NAME.model=MODEL"
        )
    return found


def _name(model: Any, *, bare: bool = False) -> str | None:
    """A reference; of an object a name. A module may be `bare` where its maps are named."""
    if model is None or isinstance(model, str):
        return model
    from torch import nn

    from vistill.models.backbone import require_backbone

    named = model if bare and isinstance(model, nn.Module) else require_backbone(model)
    return f"object:{type(named).__name__}"
