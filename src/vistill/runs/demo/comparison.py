"""A comparison of one student with and without its teacher: runs, scores, table and report."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.runs.results import PretrainResult, say

if TYPE_CHECKING:
    from vistill.analysis.plot import Curve
    from vistill.analysis.report import Section, Table
    from vistill.evaluation.metrics import Summary

DISTILLED, ALONE, RANDOM = "distilled", "alone", "random"
"""The three students: taught, pre-trained without a teacher, and not pre-trained."""


@dataclass(frozen=True)
class DemoResult:
    """What a demo came to.

    Attributes:
        report: the HTML page.
        accuracy: of every student, with its interval over seeds.
        runs: the two pre-training runs.
        seconds: of everything.
        table: the comparison, in words.
    """

    report: Path
    accuracy: "dict[str, Summary]"
    runs: dict[str, PretrainResult]
    seconds: float
    table: "Table"

    def __str__(self) -> str:
        rows = (self.table.header, *self.table.rows)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        needed = [one.seeds_needed for one in self.accuracy.values() if one.seeds_needed]
        if needed:
            lines += ["", f"the widest interval says little; about {max(needed)} seeds would"]
        place = self.report.absolute()
        return "\n".join(["", *lines, "", f"{self.seconds:.0f} s in all; report: {place}"])


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on what.

    Attributes:
        title: of the report.
        names: what each student is called, in the order of the table.
        unlabelled: pictures or clips to pre-train on.
        train, test: labelled ones to learn from and to test on.
        student: settings that both runs share.
        runs: method and further settings of the taught and the lonely student.
        views: what a sample of a pre-training batch is, such as `crops`.
        protocol: how they are measured, `finetune` or `linear`.
        labels: budget of labels.
        measuring: settings of the evaluation.
        explained: the report's words on the comparison, `{n_test}` being the number of tests,
            `{seeds}` of seeds.
        origin: page on where the data come from, quoted at the end.
    """

    title: str
    names: Mapping[str, str]
    unlabelled: str
    train: str
    test: str
    student: Mapping[str, Any]
    runs: Mapping[str, tuple[str, Mapping[str, Any]]]
    views: str
    protocol: str
    labels: str
    measuring: Mapping[str, Any]
    explained: str
    origin: Path

    def run(
        self,
        out: Path,
        show: "Callable[[], list[Section]]",
        pretrain: Callable[..., Any],
        evaluate: Callable[..., Any],
        *,
        seeds: int,
        overwrite: bool,
    ) -> DemoResult:
        """`pretrain`, `evaluate` with as many seeds, and write `report.html` with what `show` adds.

        Raises:
            UserError: `out` belongs to something else.
        """
        start = time.monotonic()
        runs = {}
        for name, (method, settings) in self.runs.items():
            say(f"\n{self.names[name]}")
            run = pretrain(
                method,
                data=self.unlabelled,
                out=out / name,
                overwrite=overwrite,
                overrides={"train.report": False, **self.student, **settings},
            )
            runs[name] = run
        accuracy = {}
        for name, called in self.names.items():
            how = {"finetune": "fine-tuning", "linear": "linear probe"}[self.protocol]
            say(f"\n{how} with {self.labels.replace('/', ' labels per ')}: {called}")
            accuracy[name] = evaluate(
                f"run:{out / (DISTILLED if name == RANDOM else name)}",
                data=self.train,
                test=self.test,
                protocols=(self.protocol,),
                labels=(self.labels,),
                seeds=range(seeds),
                random_init=name == RANDOM,
                out=out / f"{self.protocol}-{name}.json",
                overrides=self.measuring,
            ).summaries[0]
        table = self._table(accuracy, runs)
        report = out / "report.html"
        result = DemoResult(report, accuracy, runs, time.monotonic() - start, table)
        self._write_report(result, out, seeds, show())
        return result

    def _table(
        self, accuracy: "Mapping[str, Summary]", runs: Mapping[str, PretrainResult]
    ) -> "Table":
        from vistill.analysis.report import Table

        rows = []
        for name, summary in accuracy.items():
            cost = ["-", "-"]
            if name in runs:
                seen = runs[name].steps * self.student["train.global_batch_size"]
                cost = [f"{seen:,}", f"{runs[name].seconds:.0f} s"]
            interval = f"{100 * summary.low:.1f} to {min(100.0, 100 * summary.high):.1f}"
            rows.append([self.names[name], *cost, f"{100 * summary.top1:.1f} %", interval])
        header = ["student", f"{self.views} seen", "pre-training", "accuracy", "95 % interval"]
        best = max(range(len(rows)), key=lambda row: list(accuracy.values())[row].top1)
        return Table(header, rows, best=best)

    def _write_report(
        self, result: DemoResult, out: Path, seeds: int, shown: "list[Section]"
    ) -> None:
        from vistill.analysis.report import Section, write_report

        n_test = f"{result.accuracy[DISTILLED].n_test:,}"
        sections = [
            Section(
                "The same student, with and without a teacher",
                text=self.explained.format(n_test=n_test, seeds=seeds),
                table=result.table,
            ),
            Section("Training", curves=self._curves(out)),
            *shown,
            Section(
                "Cost",
                text=f"{result.seconds:.0f} seconds in all on {os.cpu_count()} processors, "
                "pre-training and measuring of all students included.",
            ),
            Section("Origin", text=self.origin.read_text(encoding="utf-8")),
        ]
        write_report(result.report, self.title, sections)

    def _curves(self, out: Path) -> "Sequence[Curve]":
        from vistill.analysis.plot import Curve

        curves = []
        batch = self.student["train.global_batch_size"]
        for name in self.runs:
            lines = (out / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            terms = sorted({key for row in rows for key in row if key.startswith("loss/")})
            curves.append(
                Curve(
                    f"loss, {self.names[name]}",
                    f"{self.views} seen",
                    {
                        term.removeprefix("loss/"): (
                            [row["step"] * batch for row in rows if term in row],
                            [row[term] for row in rows if term in row],
                        )
                        for term in terms
                    },
                )
            )
        return curves
