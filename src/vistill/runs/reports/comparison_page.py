"""The page of a comparison: its table, what differs for sure, and the curves of its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistill.analysis.plot import Intervals
from vistill.analysis.report import Section, Table, write_beside, write_report
from vistill.config.yaml12 import dump_yaml
from vistill.runs.comparison import HEAD, CompareResult
from vistill.runs.reports.curves import runs_together
from vistill.runs.reports.origins import origin_of_data, origin_of_model
from vistill.runs.reports.records import read_record
from vistill.runs.reports.run_page import BESIDE, PAGE
from vistill.runs.reports.setting import command_section, environment_section
from vistill.training.run_folder import environment_now

_FIRST = "One run of every row, that of its first seed."


def write_comparison(
    result: CompareResult,
    out: Path,
    asked: Mapping[str, Any],
    runs: Mapping[str, Path],
    teachers: Sequence[str],
) -> None:
    """Write `report.html` and what lies beside it into the folder of a comparison.

    Args:
        result: what it came to.
        out: its folder.
        asked: what was asked for, as `comparison.json` has it.
        runs: by the name of a row, the folder of one of its runs.
        teachers: as they were named.
    """
    best_first = {row.name: runs[row.name] for row in result.rows if row.name in runs}
    made = [read_record(folder, name) for name, folder in best_first.items()]
    made = [record for record in made if record.rows]  # others learned nothing
    sessions = [environment_now()]
    origins = {f"terms of {teacher}": origin_of_model(teacher) for teacher in teachers}
    origins["terms of the data"] = origin_of_data(str(asked["data"]))
    sections = [
        Section("What it came to", table=_table(result), curves=_intervals(result)),
        _differences(result),
        Section("Failed", code="\n".join(_failed(result))),
        Section("Curves", _FIRST if made else "", curves=runs_together(made) if made else ()),
        Section("Origins and licences", facts=origins),
        command_section(sessions, {}),
        environment_section(sessions),
        Section("Configuration", code=dump_yaml(dict(asked))),
    ]  # fmt: skip
    write_beside(out / BESIDE, sections, ("table.csv", result.to_csv()))
    write_report(out / PAGE, f"Comparison by {result.protocol}, {result.budget}", sections)


def _table(result: CompareResult) -> Table:
    best = 0 if result.rows and result.rows[0].top1 is not None else None
    return Table(HEAD, [row.figures() for row in result.rows], best)


def _intervals(result: CompareResult) -> list[Intervals]:
    rows = {
        row.name: (100 * row.low, 100 * row.top1, 100 * row.high)
        for row in result.rows
        if row.top1 is not None and row.low is not None and row.high is not None
    }
    return [Intervals("Accuracy with its 95 % interval", "top-1 %", rows)] if rows else []


def _differences(result: CompareResult) -> Section:
    if not result.differences:
        return Section("Differences")
    real = sum(one.real for one in result.differences)
    text = (
        f"{real} of {len(result.differences)} are real: paired over seeds, corrected for their "
        "number, 5 %."
    )
    rows = [
        [one.better, one.worse, _points(one.mean), f"{_points(one.low)} – {_points(one.high)}",
         f"{one.p:.2g}", "yes" if one.real else ""]
        for one in result.differences
    ]  # fmt: skip
    header = ["better", "worse", "points", "95 % interval", "p", "real"]
    return Section("Differences", text, table=Table(header, rows))


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _failed(result: CompareResult) -> list[str]:
    return [
        f"{row.name}, seed {seed}: {cell.error}"
        for row in result.rows
        for seed, cell in row.cells.items()
        if cell.error is not None
    ]
