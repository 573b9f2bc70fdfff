"""`compare`: methods, teachers and students under one budget, with the yardsticks of a sceptic."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vistill.api.evaluate import evaluate
from vistill.api.pretrain import pretrain, read_overrides
from vistill.config.compare import compare_config
from vistill.files import local_path
from vistill.runs.comparison import CompareResult


def compare(
    *methods: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    teachers: Sequence[str] = (),
    students: Sequence[str] = ("vit_small",),
    test: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    pictures: int | None = None,
    minutes: float | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    protocol: Literal["knn", "linear", "finetune"] = "knn",
    yardsticks: bool = False,
    jobs: int = 1,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> CompareResult:
    """Pre-train and measure all methods with all teachers and students (see docs/compare.md).

    The same call with the same folder skips what is done.

    Args:
        methods: methods or recipes.
        data: labelled pictures or clips; subfolders train/ and val/ or test/ are used.
        out: folder of the comparison: the table as text, JSON and CSV, and a run folder per cell.
        teachers, students: as `pretrain` takes one.
        test: labelled ones to test on.
        steps, pictures, minutes: the budget of a run, one of them, in whole passes.
        seeds: one run of every row each.
        protocol: how students are measured.
        yardsticks: add no pre-training, labels alone, logit_kd and relation_kd.
        jobs: runs at a time.
        overrides: settings of all runs; `METHOD.KEY` of one method's, `evaluate.KEY` of
            evaluations.

    Raises:
        UserError: something to mend, before any work; or every run failed.
        vistill.stopping.Interrupted: a signal; the same call goes on.
    """
    from vistill.runs.comparing import compare as run
    from vistill.runs.comparing_cells import Verbs

    flags: dict[str, Any] = {
        "methods": list(methods),
        "teachers": list(teachers),
        "students": list(students),
        "steps": steps,
        "pictures": pictures,
        "minutes": minutes,
        "seeds": list(seeds),
        "protocol": protocol,
        "yardsticks": yardsticks,
        "jobs": jobs,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    config = compare_config(given)
    train, tested = os.fspath(data), None if test is None else os.fspath(test)
    local_path(train)
    settings = read_overrides(overrides)
    return run(config, train, tested, Path(out), settings, Verbs(pretrain, evaluate))
