"""`report.html` of a run, or of several laid over each other, from what their folders say."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.analysis.report import (
    Section,
    Table,
    beside,
    csv_text,
    file_name,
    write_beside,
    write_report,
)
from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.curves import run_curves, runs_together
from vistill.runs.reports.origins import origin_of_data, origin_of_model
from vistill.runs.reports.records import Record, read_record
from vistill.runs.reports.setting import command_section, duration, environment_section
from vistill.runs.results import main_rank

if TYPE_CHECKING:
    from vistill.runs.pretraining import Prepared

PAGE, BESIDE = "report.html", "report"
SHOWN = "shown.json"
_READ = (
    "Of the first step: what was read, with the crop that was drawn, and beside it what the "
    "student was given; patches that are hidden from it are grey."
)
_LOOKED = (
    "What the student attends to in these inputs, mean over heads: its class token, or where there "
    "is none, all patches. Brightest is what gets most."
)
_ALL = "All settings, in a new folder"


def write_run_page(
    folder: Path, prepared: "Prepared | None" = None, page: Path | None = None
) -> Path:
    """Write the page of a run, with its plots, pictures and numbers in a folder beside it.

    Args:
        folder: of the run.
        page: where it goes, `report.html` in the run's folder by default; the folder beside it has
            the same name without its ending.
        prepared: the run itself, where it has just been done: only it can show its inputs. Without
            it those are shown that an earlier page had.

    Raises:
        UserError: a file of the run is damaged.
    """
    record = read_record(folder, folder.name or str(folder))
    page = page or folder / PAGE
    files = beside(page)
    shown = _kept(folder / BESIDE) if prepared is None else [*_inputs(record, prepared)]
    sections = [
        Section("What it came to", facts=_facts(record), table=_students(record)),
        Section("Curves", curves=run_curves(record)),
        *shown,
        _last_numbers(record),
        Section("Origins and licences", facts=_origins(record)),
        command_section(record.sessions, _again(record)),
        environment_section(record.sessions),
        Section("Configuration", code=record.config),
    ]
    write_beside(files, sections, ("metrics.csv", csv_text(record.rows)))
    told = [
        {"title": one.title, "text": one.text, "captions": [name for name, _ in one.pictures]}
        for one in shown
    ]
    if told:
        write_atomic(files / SHOWN, json.dumps(told, indent=1) + "\n")
    method = record.section("method").get("name", "run")
    write_report(page, f"{folder.absolute().name}: {method}", sections)
    return page


def report_run(prepared: "Prepared", folder: Path, *, finished: bool) -> None:
    """Write the page of a run that has just ended; what goes wrong is told, as the run is saved.

    One that did not finish reads no sample for it: its disk may be what stopped it, and who stopped
    it waits.
    """
    measured = (folder / "metrics.jsonl").is_file()
    if prepared.config.train.report and measured and main_rank():
        again = f"`vistill report {folder}`"
        attempt(folder, lambda: write_run_page(folder, prepared if finished else None), again)


def write_page_of_several(records: Sequence[Record], page: Path) -> Path:
    """Several runs laid over each other; plots and numbers are in a folder beside the page."""
    rows = [_row(record) for record in records]
    header = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(header, [[row.get(key, "") for key in header] for row in rows])
    differing = _differing(records)
    sections = [
        Section("What they came to", table=table),
        Section("Settings in which they differ", table=differing),
        Section("Curves", curves=runs_together(records)),
    ]
    for record in records:
        origins = _origins(record)
        command = command_section(record.sessions, _again(record)).code
        sections.append(Section(record.name, facts=_facts(record) | origins, code=command))
    sections.append(environment_section(records[-1].sessions))
    numbers = [{"run": record.name} | dict(row) for record in records for row in record.rows]
    write_beside(beside(page), sections, ("metrics.csv", csv_text(numbers)))
    write_report(page, ", ".join(record.name for record in records), sections)
    return page


def _inputs(record: Record, prepared: "Prepared") -> "list[Section]":
    from vistill.models.build import load_backbone
    from vistill.runs.reports.inputs import attention_pictures, first_inputs

    inputs = first_inputs(prepared)
    sections = [Section("Inputs", _READ, pictures=inputs.pictures)]
    try:
        student = load_backbone(f"run:{record.folder}").eval()
    except UserError:  # not exported yet, or a module that only its owner can make
        return sections
    after = "" if record.result or not record.rows else f" After step {record.rows[-1]['step']}."
    if pictures := attention_pictures(student, inputs.batches):
        sections.append(Section("Attention of the student", _LOOKED + after, pictures=pictures))
    return sections


def _kept(files: Path) -> list[Section]:
    """What an earlier page of the run showed of its inputs."""
    file = files / SHOWN
    found = []
    for one in json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []:
        name = file_name(one["title"])
        paths = [files / f"{name}-{n}.jpg" for n in range(1, len(one["captions"]) + 1)]
        pictures = [(caption, path.read_bytes())
                    for caption, path in zip(one["captions"], paths, strict=True)
                    if path.is_file()]  # fmt: skip
        found.append(Section(one["title"], one["text"], pictures=pictures))
    return found


def _state(record: Record) -> str:
    if record.result is not None:
        early = ""
        if record.epochs and record.result.epochs < record.epochs:
            early = f" of {record.epochs}, as more would have gained nothing"
        return f"finished after {record.result.steps:,} steps, {record.result.epochs} epochs{early}"
    if not record.rows:
        return "nothing was measured yet"
    step, epoch = record.rows[-1]["step"], record.rows[-1].get("epoch", 0)
    whole = f" of {record.epochs}" if record.epochs else ""
    return f"not finished: step {step:,}, epoch {epoch:.4g}{whole}"


def _facts(record: Record) -> dict[str, str]:
    settings, result = record.settings, record.result
    teacher, student, data = (record.section(name) for name in ("teacher", "student", "data"))
    students = ", ".join(settings.get("students") or ()) or student.get("model")
    frames = f", clips of {data['frames']} frames" if data.get("frames") else ""
    facts = {
        "state": _state(record),
        "method": record.section("method").get("name"),
        "teacher": teacher.get("model"),
        "student": students,
        "data": _data(record) and f"{_data(record)}{frames}, {_size(data.get('image_size'))}",
    }
    if record.sessions:
        count = record.sessions[-1].get("pictures")
        facts["samples"] = count and f"{count:,}"
    if record.broken:
        facts["unreadable"] = f"{record.broken:,} samples were skipped"
    if result is not None:
        facts["time"] = duration(result.seconds)
        facts["loss of the last epoch"] = _numbers(
            {name.removeprefix("loss/"): value for name, value in result.terms.items()}
        )
        if result.best is not None:
            facts["best"] = _best(result.best)
        facts["doubt"] = result.doubt
        facts["more epochs"] = result.outlook and result.outlook["text"]
        facts["backbone"] = str(result.backbone)
    return {name: str(value) for name, value in facts.items() if value}


def _data(record: Record) -> str:
    """Where the samples are; of a mixture each source."""
    data = record.section("data")
    sources = data.get("sources") or {}
    named = [f"{name}: {one.get('train')}" for name, one in sources.items()]
    return ", ".join(named) or str(data.get("train") or "")


def _size(size: Any) -> str:
    return " x ".join(map(str, size)) + " px" if isinstance(size, list) else f"{size} px"


def _best(best: Mapping[str, Any]) -> str:
    return f"{best['metric']} {best['value']:.4g} after epoch {best['epoch']}"


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _students(record: Record) -> Table | None:
    """A row for each of several students."""
    if record.result is None or not record.result.students:
        return None
    rows = [
        [name, "" if one.best is None else _best(one.best), one.doubt or "",
         one.outlook["text"] if one.outlook else "", str(one.backbone)]
        for name, one in record.result.students.items()
    ]  # fmt: skip
    return Table(["student", "best", "doubt", "more epochs", "backbone"], rows)


def _row(record: Record) -> dict[str, str]:
    """A run in the table of several."""
    facts = _facts(record)
    names = ("method", "teacher", "student", "state", "time", "loss of the last epoch", "best")
    return {"run": record.name} | {name: facts[name] for name in names if name in facts}


def _differing(records: Sequence[Record]) -> Table | None:
    flat = [_flat(record.settings) for record in records]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [[key, *(one.get(key, "") for one in flat)] for key in keys
            if len({one.get(key, "") for one in flat}) > 1]  # fmt: skip
    return Table(["setting", *(record.name for record in records)], rows) if rows else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}.{key}" if prefix else key
        found |= _flat(value, name) if isinstance(value, dict) else {name: str(value)}
    return found


def _last_numbers(record: Record) -> Section:
    """The last value of everything that was measured, and its best where that tells something."""
    rows = []
    for key in record.measured():
        if key in ("step", "epoch"):
            continue
        _, values = record.points(key)
        if values:
            shown = (values[0], values[-1], min(values), max(values))
            rows.append([key, *(f"{value:.4g}" for value in shown)])
    return Section("Numbers", table=Table(["metric", "first", "last", "lowest", "highest"], rows)
                   if rows else None)  # fmt: skip


def _origins(record: Record) -> dict[str, str]:
    teacher = record.section("teacher").get("model")
    facts = {}
    if teacher:
        facts["teacher"] = str(teacher)
        weights = record.sessions[-1].get("teacher_weights") if record.sessions else None
        if weights:
            facts["teacher's weights"] = str(weights)
        facts["terms of the teacher"] = origin_of_model(str(teacher))
    if init := record.section("student").get("init"):
        facts["student begins as"] = str(init)
        facts["terms of that"] = origin_of_model(str(init))
    data = record.section("data")
    sources = {name: one.get("train") for name, one in (data.get("sources") or {}).items()}
    for name, place in (sources or {"": data.get("train")}).items():
        if place:
            facts[f"terms of the data{f' {name}' if name else ''}"] = origin_of_data(str(place))
    return facts


def _again(record: Record) -> dict[str, str]:
    if not record.config:
        return {}
    config = str(record.folder / "config.yaml")
    return {
        _ALL: shlex.join(["vistill", "pretrain", config, "--out", f"{record.folder}-again"]),
        "This page": shlex.join(["vistill", "report", str(record.folder)]),
    }
