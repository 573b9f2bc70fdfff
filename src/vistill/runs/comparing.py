"""Methods, teachers and students under one budget: which runs there are, and one after another or
several at a time; what is done is skipped, what fails is told."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vistill.config.compare import CompareConfig, sorted_settings
from vistill.config.evaluation import EvaluateConfig
from vistill.config.loading import build_config, load_config, said_settings
from vistill.config.optim import WARMED_UP
from vistill.config.schema import RunConfig
from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.locking import locked
from vistill.runs.adapting import fit_to_place
from vistill.runs.comparing_cells import (
    Cell,
    Verbs,
    get_ready,
    passes_within,
    quietly,
    run_cell,
)
from vistill.runs.comparison import CellResult, CompareResult, RowResult
from vistill.runs.conflicts import check_conflicts
from vistill.runs.places import usual_parts
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.comparison_page import write_comparison
from vistill.runs.results import say
from vistill.runs.side_by_side import side_by_side

_NOTHING, _LONGER = "no pre-training", "supervised, equal cost"
_WARMUP_PART = 5
_SCEPTIC = ("supervised", "logit_kd", "relation_kd")


@dataclass(frozen=True)
class Way:
    """A row: how a student is made, whatever the seed."""

    name: str
    teacher: str | None
    student: str

    @property
    def folder(self) -> str:
        """Where its cells are."""
        words = [self.name, self.student]
        if self.teacher is not None:
            digest = hashlib.blake2b(self.teacher.encode(), digest_size=3).hexdigest()
            words += [Path(_short(self.teacher)).stem, digest]
        return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)


class _Comparison:
    def __init__(
        self,
        config: CompareConfig,
        data: str,
        test: str | None,
        out: Path,
        settings: Sequence[tuple[str, Any]],
        verbs: Verbs,
    ) -> None:
        self.config, self.out, self.verbs = config, out, verbs
        self.train, usual = usual_parts(data)
        self.test = test or usual
        extra = [one for one in _SCEPTIC if one not in config.methods] if config.yardsticks else []
        self.methods = [*config.methods, *extra]
        self.of_runs, self.of_evaluations = sorted_settings(settings, self.methods)
        self.ways = [way for name in self.methods for way in self._ways(name)]
        measured = {"protocols": [config.protocol]}
        build_config(EvaluateConfig, measured, self.of_evaluations)
        for way in self.ways:
            told = self._settings(way)
            student = "student.model" in said_settings(None, told)
            check_conflicts(load_config(way.name, told), student_given=student)
        self.fits = {name: self._fit(name) for name in self.methods}
        if config.minutes is None:
            for way in self.ways:
                epochs = self._whole_passes(way.name)
                load_config(way.name, [*self._told(way, epochs), ("train.epochs", epochs)])

    def _ways(self, name: str) -> list[Way]:
        method = load_config(name, []).method
        if not method.needs_teacher:
            told = self.of_runs[name]
            self.of_runs[name] = [one for one in told if not one[0].startswith("teacher")]
            return [Way(name, None, student) for student in self.config.students]
        if not self.config.teachers:
            raise UserError(
                f"{name} needs a teacher: give --teacher run:DIR, file:PATH or timm/NAME"
            )
        keep = ",classifier=keep" if method.name == "logit_kd" else ""
        return [
            Way(name, teacher if "classifier=" in teacher else teacher + keep, student)
            for teacher in self.config.teachers
            for student in self.config.students
        ]

    def _settings(self, way: Way) -> list[tuple[str, Any]]:
        found = [*self.of_runs[way.name], ("data.train", self.train)]
        found.append(("student.model", way.student))
        return found if way.teacher is None else [*found, ("teacher.model", way.teacher)]

    def _told(self, way: Way, epochs: int) -> list[tuple[str, Any]]:
        """Settings of a run of so many epochs. The usual warm-up, or a recipe's, gives way where
        it would be over a fifth of them."""
        told = self._settings(way)
        optim, most = load_config(way.name, told).optim, epochs / _WARMUP_PART
        if (
            optim.schedule in WARMED_UP
            and optim.warmup_epochs > most
            and "optim.warmup_epochs" not in said_settings(None, told)
        ):
            told.append(("optim.warmup_epochs", most))
        return told

    def _fit(self, name: str) -> tuple[int, int]:
        """Pictures that an epoch of a method shows, and its steps."""
        way = next(way for way in self.ways if way.name == name)
        told = self._settings(way)
        with quietly(None):
            said = said_settings(name, told)
            loaded: RunConfig = load_config(name, told)
            adapted, reading = fit_to_place(loaded, said, self.out / "none", overwrite=True)
        train, _ = reading.split(loaded.data.held_out, loaded.seed)
        batch = adapted.config.train.global_batch_size
        if len(train) < batch:
            raise UserError(
                f"{name}: {len(train)} pictures to train on are no whole step of "
                f"train.global_batch_size={batch}"
            )
        return len(train) // batch * batch, len(train) // batch

    def _whole_passes(self, name: str) -> int:
        pictures, steps = self.fits[name]
        budget, one, what = self.config.steps, steps, "steps"
        if budget is None:
            budget, one, what = self.config.pictures or 0, pictures, "pictures"
        if budget < one:
            raise UserError(
                f"--{what} {budget} is less than one pass of {name} over the pictures, which is "
                f"{one} {what}; give --{what} {one} or more, or fewer pictures"
            )
        return budget // one

    def cell(self, way: Way, seed: int, epochs: int, base: str | None = None) -> Cell:
        """One run of one seed."""
        pictures = self.fits[way.name][0] if base is None else 0
        settings = self._told(way, epochs) if base is None else []
        return Cell(
            way.name if base is None else None,
            seed,
            epochs,
            epochs * pictures,
            str(self.out / "cells" / way.folder / f"seed-{seed}"),
            tuple(settings),
            self.train,
            self.test,
            self.config.protocol,
            tuple(self.of_evaluations),
            base,
        )

    def epochs(self, way: Way) -> int | str:
        """Passes over the pictures that the budget pays for; or why it pays for none."""
        if self.config.minutes is None:
            return self._whole_passes(way.name)
        pilot = replace(self.cell(way, self.config.seeds[0], 1),
                        folder=str(self.out / "cells" / way.folder / "pilot"))  # fmt: skip
        return passes_within(pilot, 60 * self.config.minutes, self.verbs)

    def run(self) -> dict[Way, dict[int, CellResult]]:
        """All rows, by seed."""
        if self.config.jobs == 1 or self.config.minutes is not None:
            get_ready(1)
        found: dict[Way, dict[int, CellResult]] = {way: {} for way in self.ways}
        jobs: dict[tuple[Way, int], Cell] = {}
        for way in self.ways:
            epochs = self.epochs(way)
            for seed in self.config.seeds:
                if isinstance(epochs, str):
                    found[way][seed] = CellResult(error=epochs)
                else:
                    jobs[way, seed] = self.cell(way, seed, epochs)
        self._do(jobs, found)
        if self.config.yardsticks:
            self._do(self._later(found), found)
        return found

    def _later(self, found: Mapping[Way, Mapping[int, CellResult]]) -> dict[Any, Cell]:
        """What can be made when the others are known: fresh weights, and labels at equal cost."""
        jobs: dict[tuple[Way, int], Cell] = {}
        for student in self.config.students:
            mine = {way: cells for way, cells in found.items() if way.student == student}
            for seed in self.config.seeds:
                made = (way for way, cells in mine.items() if cells[seed].top1 is not None)
                if (way := next(made, None)) is not None:
                    base = self.cell(way, seed, 0).folder
                    jobs[Way(_NOTHING, None, student), seed] = self.cell(
                        Way(_NOTHING, None, student), seed, 0, base
                    )
            alone = mine.get(Way("supervised", None, student), {})
            spent = [one for one in alone.values() if one.top1 is not None]
            taught = [
                fmean(one.cpu for one in cells.values() if one.top1 is not None)
                for way, cells in mine.items()
                if way.teacher and any(one.top1 is not None for one in cells.values())
            ]
            if not spent or not taught or self.config.minutes is not None:
                continue
            longer = Way(_LONGER, None, student)
            kept = self.out / "cells" / longer.folder / "epochs.json"
            if not kept.exists():  # more seeds later must not move it
                each = fmean(one.cpu / one.epochs for one in spent)
                kept.parent.mkdir(parents=True, exist_ok=True)
                epochs = max(spent[0].epochs, round(max(taught) / each))
                write_atomic(kept, json.dumps(epochs))
            epochs = json.loads(kept.read_text())
            for seed in self.config.seeds:
                cell = self.cell(Way("supervised", None, student), seed, epochs)
                folder = str(kept.parent / f"seed-{seed}")
                jobs[longer, seed] = replace(cell, folder=folder)
        return jobs

    def _do(
        self, jobs: Mapping[tuple[Way, int], Cell], found: dict[Way, dict[int, CellResult]]
    ) -> None:
        def keep(which: tuple[Way, int], result: CellResult) -> None:
            way, seed = which
            found.setdefault(way, {})[seed] = result
            told = result.error or f"{100 * (result.top1 or 0):.1f} %, {result.cpu:.0f} CPU s"
            say(f"{way.folder}, seed {seed}: {told}")

        if self.config.jobs == 1:
            for which, cell in jobs.items():
                keep(which, run_cell(cell, self.verbs))
            return
        side_by_side(jobs, self.verbs, self.config.jobs, keep)


def compare(
    config: CompareConfig,
    data: str,
    test: str | None,
    out: Path,
    settings: Sequence[tuple[str, Any]],
    verbs: Verbs,
) -> CompareResult:
    """Run what is missing of a comparison in `out`, and tell of all of it.

    Args:
        config: what is compared with what.
        data: labelled pictures or clips; of `train/` and `val/` or `test/` in it the first is
            learned from.
        test: labelled ones to test on.
        out: folder of the comparison.
        settings: `KEY=VALUE` of all runs, `METHOD.KEY` of one method's, `evaluate.KEY`.
        verbs: how a run is made, and how it is measured.

    Raises:
        UserError: something to mend, before any work; or every run failed.
    """
    from vistill.evaluation.metrics import t_interval
    from vistill.evaluation.paired import differences

    asked = _Comparison(config, data, test, out, settings, verbs)
    told = config.model_dump(include={"steps", "pictures", "minutes", "protocol"})
    told |= {"data": asked.train, "test": asked.test, "settings": [list(one) for one in settings]}
    _check_folder(out, told)
    with locked(out):
        write_atomic(out / "comparison.json", json.dumps(told, indent=1, default=str) + "\n")
        found = asked.run()
        rows, runs = [], dict[str, Path]()
        unlike = len(set(map(_short, config.teachers))) == len(config.teachers)
        for way, cells in found.items():
            done = [one for one in cells.values() if one.top1 is not None]
            summary: tuple[Any, Any, Any] = (None, None, None)
            if len(done) == 1:
                summary = done[0].top1, done[0].low, done[0].high
            elif done:
                summary = t_interval([one.top1 for one in done if one.top1 is not None])
            teacher = "-" if way.teacher is None else way.teacher
            teacher = _short(teacher) if unlike else teacher
            row = RowResult(way.name, teacher, way.student, cells, *summary)
            rows.append(row)
            for seed in [*row.done][:1]:
                runs[row.name] = out / "cells" / way.folder / f"seed-{seed}" / "run"
        failed = [one.error for row in rows for one in row.cells.values() if one.error]
        if not any(row.done for row in rows):
            raise UserError(f"every run failed; the first: {failed[0]}")
        rows.sort(key=lambda row: -1.0 if row.top1 is None else row.top1, reverse=True)
        scores = {row.name: {s: one.top1 or 0.0 for s, one in row.done.items()} for row in rows}
        tested = max(one.n_test for row in rows for one in row.cells.values())
        budget = next(
            f"{value:,} {'CPU ' if name == 'minutes' else ''}{name}"
            for name in ("steps", "pictures", "minutes")
            if (value := getattr(config, name)) is not None
        )
        result = CompareResult(rows, differences(scores, 1 / tested), config.protocol, budget)
        write_atomic(out / "table.txt", f"{result}\n")
        write_atomic(out / "table.json", result.to_json())
        write_atomic(out / "table.csv", result.to_csv())
        attempt(out, lambda: write_comparison(result, out, told, runs, config.teachers))
    return result


def _short(teacher: str) -> str:
    name = re.sub(r"^(file|run):(.*/)?", "", teacher.replace(",classifier=keep", ""))
    # A model of a library with weights in a file goes by its name alone.
    return re.sub(r"^(\w+/[^/:]+):(?!pretrained$).*", r"\1", name)


def _check_folder(out: Path, told: Mapping[str, Any]) -> None:
    """Raise a UserError if another comparison, or something else, is there."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the comparison")
    marker = out / "comparison.json"
    if not marker.exists():
        if any(out.iterdir()):
            raise UserError(f"{out} holds something else; name a new folder for the comparison")
        return
    before, now = json.loads(marker.read_text()), json.loads(json.dumps(told, default=str))
    for key, value in now.items():
        if before.get(key) != value:
            raise UserError(
                f"{out} holds a comparison with other settings ({key}: {before.get(key)} → "
                f"{value}); name another folder. Methods, teachers, students and seeds may be added"
            )
