"""A chain of students, each taught by the one before: one folder, one resumable command."""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistill.config.chain import stage_config, stage_names
from vistill.files import write_atomic
from vistill.runs.adapting import Adapted
from vistill.runs.build import build
from vistill.runs.fingerprint import config_text, fingerprint
from vistill.runs.pretraining import prepare, rehearse, run_pretraining
from vistill.runs.reading import Reading
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.records import read_records
from vistill.runs.reports.run_page import PAGE, write_page_of_several
from vistill.runs.results import PretrainResult, main_rank, say
from vistill.training.distributed import connect
from vistill.training.run_folder import RESULT, RunFolder, check_folder


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
    begun = None if overwrite else folders[0]
    prepared = prepare(stages[0], reading, out=begun, **objects)
    pupil = deepcopy(prepared.method.student)
    for stage in stages[1:]:  # with untrained pupils: does every stage fit the next?
        pupil = build(stage.config, teacher=pupil, untrained=True).student
    with _claim(chain, out, overwrite=overwrite, dry_run=dry_run):
        if dry_run:
            rehearse(prepared, folders[0], overwrite=overwrite)
            return None
        results = [_finished(folders[0]) or run_pretraining(prepared, folders[0])]
        del prepared, pupil  # or the first teacher would stay in memory to the end
        for stage, folder in zip(stages[1:], folders[1:], strict=True):
            results.append(_finished(folder) or _trained(stage, reading, folder))
        return _publish(out, results, report=chain.config.train.report)


def _trained(stage: Adapted, reading: Reading, folder: Path) -> PretrainResult:
    return run_pretraining(prepare(stage, reading, out=folder), folder)


def _finished(out: Path) -> PretrainResult | None:
    """The result of the finished run in `out`, or None."""
    path = out / RESULT
    if not path.is_file():
        return None
    say(f"finished {out}")
    return PretrainResult.from_json(path.read_text(encoding="utf-8"))


def _claim(
    chain: Adapted, out: Path, *, overwrite: bool, dry_run: bool
) -> AbstractContextManager[object]:
    """Make `out` the folder of this chain, while entered; a dry run only checks that it could be.

    Raises:
        UserError: it belongs to something else.
    """
    config = chain.config
    world = connect(config.train.device)
    if dry_run:
        world.once(lambda: check_folder(out, fingerprint(config), overwrite=overwrite))
        return nullcontext()
    return RunFolder.open(
        out,
        fingerprint=fingerprint(config),
        config=config_text(config),
        asked=chain.asked,
        world=world,
        overwrite=overwrite,
    )


def _publish(out: Path, stages: list[PretrainResult], *, report: bool) -> PretrainResult:
    """Copy the last student's exports into `out`, so that `run:OUT` is that student; a page of all
    where a `report` is wanted."""
    last = stages[-1]
    if main_rank():
        for source in sorted((last.out / "export").glob("*/*")):
            target = out / source.relative_to(last.out)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, source.read_bytes())
        if report:
            attempt(out, lambda: write_page_of_several(read_records([str(out)]), out / PAGE))
    return PretrainResult(**vars(last) | {"out": out, "stages": tuple(stages)})
