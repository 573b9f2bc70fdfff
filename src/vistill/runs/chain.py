"""A chain of students, each taught by the one before: one folder, one resumable command."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistill.config.chain import stage_config, stage_names
from vistill.runs.adapting import Adapted
from vistill.runs.build import build
from vistill.runs.reading import Reading
from vistill.runs.results import PretrainResult
from vistill.runs.stage import (
    claim_chain,
    finished,
    prepare,
    publish_chain,
    rehearse,
    train_stage,
)


def run_chain(
    chain: Adapted,
    reading: Reading,
    out: Path,
    objects: dict[str, Any],
    *,
    overwrite: bool,
    dry_run: bool,
) -> PretrainResult | None:
    """Train what is not finished, stage by stage; None of a dry run.

    Args:
        chain: configuration of the whole.
        reading: its samples.
        out: its folder.
        objects: a teacher, students or pictures given as objects.
        overwrite: move an existing chain aside.
        dry_run: check everything and write nothing.

    Raises:
        UserError: a stage does not fit the next, or the folder is another's.
    """
    config = chain.config
    folders = [out / name for name in stage_names(config)]
    teachers = [None, *(f"run:{folder}" for folder in folders)]
    stages = [
        replace(chain, config=stage_config(config, i, teachers[i])) for i in range(len(folders))
    ]
    prepared = prepare(stages[0], reading, **objects)
    pupil = deepcopy(prepared.method.student)
    for stage in stages[1:]:  # with untrained pupils: does every stage fit the next?
        pupil = build(stage.config, teacher=pupil, untrained=True).student
    with claim_chain(chain, out, overwrite=overwrite, dry_run=dry_run):
        if dry_run:
            rehearse(prepared, folders[0], overwrite=overwrite)
            return None
        results = [finished(folders[0]) or train_stage(prepared, folders[0])]
        del prepared, pupil  # or the first teacher would stay in memory to the end
        for stage, folder in zip(stages[1:], folders[1:], strict=True):
            results.append(finished(folder) or train_stage(prepare(stage, reading), folder))
        return publish_chain(out, results)
