"""The page of a ranking of teachers, beside the JSON file of its numbers."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.analysis.plot import Intervals
from vistill.analysis.report import Section, Table, beside, csv_text, write_beside, write_report
from vistill.config.yaml12 import dump_yaml
from vistill.runs.reports.origins import origin_of_data, origin_of_model
from vistill.runs.reports.setting import command_section, environment_section

if TYPE_CHECKING:
    from vistill.runs.ranking_teachers import RankResult


def write_ranking(result: "RankResult", page: Path, data: str, config: dict[str, Any]) -> None:
    """Write the page, and its plots and numbers as files in a folder beside it."""
    from vistill.training.run_folder import environment_now

    sessions, names = [environment_now()], [one.name for one in result.scores]
    header, *rows = result.table()
    text = (
        f"Try first: {result.best}, {result.reason}.\n\n{result.seen} samples, a student of "
        f"{result.student_width} channels."
    )
    origins = {f"terms of {name}": origin_of_model(name) for name in names}
    origins["terms of the data"] = origin_of_data(data)
    sections = [
        Section("What it came to", text, table=Table(header, rows, names.index(result.best)),
                curves=_plots(result)),
        Section("Origins and licences", facts=origins),
        command_section(sessions, {}),
        environment_section(sessions),
        Section("Configuration", code=dump_yaml({"data": data} | config)),
    ]  # fmt: skip
    numbers = csv_text([asdict(one) for one in result.scores])
    write_beside(beside(page), sections, ("scores.csv", numbers))
    write_report(page, f"Teachers: {', '.join(names)}", sections)


def _plots(result: "RankResult") -> list[Intervals]:
    votes, tight = {}, {}
    for one in result.scores:
        if one.knn is not None and one.knn_interval is not None:
            low, high = one.knn_interval
            votes[one.name] = (100 * low, 100 * one.knn, 100 * high)
        if one.compactness is not None and one.compactness_interval is not None:
            tight[one.name] = (one.compactness_interval[0], one.compactness,
                               one.compactness_interval[1])  # fmt: skip
    ranks = {one.name: (one.effective_rank,) * 3 for one in result.scores}
    plots = [
        Intervals("Neighbours of the same class", "percent, with 95 % interval", votes),
        Intervals("Compactness of classes", "with 95 % interval", tight),
        Intervals("Effective rank of the features", "directions", ranks),
    ]
    return [plot for plot in plots if plot.rows]
