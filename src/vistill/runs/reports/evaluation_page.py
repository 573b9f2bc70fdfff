"""The page of an evaluation, beside the JSON file of its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vistill.analysis.plot import Curve, Intervals
from vistill.analysis.report import Section, Table, beside, csv_text, write_beside, write_report
from vistill.config.yaml12 import dump_yaml
from vistill.errors import UserError
from vistill.runs.reports.origins import origin_of_data, origin_of_model
from vistill.runs.reports.setting import command_section, environment_section
from vistill.runs.results import EvaluateResult

_OTHER = ("config", "summaries")
"""Fields of a result that are no scores."""


def page_of(out: Path) -> Path:
    """Where the page of an evaluation goes whose numbers go to `out`.

    Raises:
        UserError: it would take the place of the numbers.
    """
    page = out.with_suffix(".html")
    if page == out:
        raise UserError(f"--out {out} is for the numbers, in JSON; name {out.with_suffix('.json')}")
    return page


def write_evaluation(result: EvaluateResult, page: Path) -> None:
    """Write the page, and its plots and numbers as files in a folder beside it."""
    from vistill.training.run_folder import environment_now

    config, sessions = result.config, [environment_now()]
    facts = {
        "model": str(config.get("model")),
        "weights": result.weights,
        "learned from": str(config.get("train")),
        "tested on": str(config.get("test") or "a stratified part of that"),
    }
    origins = {
        "terms of the model": origin_of_model(str(config.get("model"))),
        "terms of the data": origin_of_data(str(config.get("train"))),
    }
    sections = [
        Section("What it came to", facts=facts, table=_summaries(result), curves=_plots(result),
                code=str(result)),
        Section("Every score", table=_rows(_flat_rows(result))),
        Section("Learning rates and weight decays that were tried", table=_tried(result)),
        Section("Unreadable", code="\n".join(_broken(result))),
        Section("Origins and licences", facts=origins),
        command_section(sessions, {}),
        environment_section(sessions),
        Section("Configuration", code=dump_yaml(dict(config))),
    ]  # fmt: skip
    write_beside(beside(page), sections, ("scores.csv", csv_text(_flat_rows(result))))
    write_report(page, f"{config.get('model')}: {', '.join(config.get('protocols', ()))}", sections)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _labels(budget: float | str) -> str:
    return budget if isinstance(budget, str) else f"{100 * budget:g} %"


def _summaries(result: EvaluateResult) -> Table | None:
    if not result.summaries:
        return None
    header = ["protocol", "labels", "seeds", "top-1 %", "95 % interval", "top-5 %",
              "mean per class %", "tested"]  # fmt: skip
    rows = [
        [one.protocol, f"{_labels(one.budget)} ({one.labels_used:,})", str(len(one.seeds)),
         _percent(one.top1), f"{_percent(one.low)} – {_percent(one.high)}", _percent(one.top5),
         _percent(one.mean_per_class), f"{one.n_test:,}"]
        for one in result.summaries
    ]  # fmt: skip
    best = max(range(len(rows)), key=lambda row: result.summaries[row].top1)
    return Table(header, rows, best if len(rows) > 1 else None)


def _plots(result: EvaluateResult) -> list[Curve | Intervals]:
    if not result.summaries:
        return []
    rows = {
        f"{one.protocol}, {_labels(one.budget)} of the labels": (
            100 * one.low, 100 * one.top1, 100 * one.high
        )
        for one in result.summaries
    }  # fmt: skip
    plots: list[Curve | Intervals] = [Intervals("Accuracy with its 95 % interval", "top-1 %", rows)]
    protocols = dict.fromkeys(one.protocol for one in result.summaries)
    if len(result.summaries) > len(protocols):
        lines = {}
        for protocol in protocols:
            own = sorted((one.labels_used, 100 * one.top1) for one in result.summaries
                         if one.protocol == protocol)  # fmt: skip
            lines[protocol] = [x for x, _ in own], [y for _, y in own]
        plots.append(Curve("Accuracy by labels, percent", "labelled samples", lines))
    return plots


def _flat_rows(result: EvaluateResult) -> list[dict[str, Any]]:
    """Every score's numbers and words; what is made of parts is left to the JSON file."""
    tables = {name: table for name, table in asdict(result).items() if name not in _OTHER}
    rows = (row for table in tables.values() if table for row in (
        [table] if isinstance(table, Mapping) else table
    ))  # fmt: skip
    return [_plain(row) for row in rows if isinstance(row, Mapping)]


def _plain(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _plain(value, f"{name}.")
        elif isinstance(value, str | int | float):
            found[name] = value
    return found


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    header = list(dict.fromkeys(key for row in rows for key in row))[:16]
    shown = [[_shown(row.get(key, "")) for key in header] for row in rows]
    return Table(header, shown) if rows else None


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tried(result: EvaluateResult) -> Table | None:
    rows = [
        [f"{score.protocol}, {_labels(score.budget)}, seed {score.seed}", f"{one.lr:g}",
         f"{one.weight_decay:g}", _percent(one.validation_top1)]
        for score in result.scores for one in score.tried
    ]  # fmt: skip
    return Table(["of", "lr", "weight decay", "held-out top-1 %"], rows) if rows else None


def _broken(result: EvaluateResult) -> list[str]:
    scores = (name for score in result.scores for name in score.broken)
    return list(dict.fromkeys([*scores, *result.broken]))[:100]
