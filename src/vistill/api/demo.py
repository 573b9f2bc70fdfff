"""`demo`: a student taught by a teacher against the same student alone, on packaged pictures."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.evaluate import evaluate
from vistill.api.pretrain import pretrain
from vistill.api.results import PretrainResult, say

if TYPE_CHECKING:
    from vistill.analysis.report import Curve, Section, Table
    from vistill.evaluation.metrics import Summary

ASSETS = Path(__file__).parents[1] / "assets" / "blood_cells"
LABELS = "30/class"
SEEDS = (0, 1, 2, 3, 4)
_STUDENT: dict[str, Any] = {
    "student.model": "vit",
    "student.patch_size": 8,
    "student.embed_dim": 96,
    "student.depth": 6,
    "student.num_heads": 3,
    "data.image_size": 64,
    "data.crop_scale": [0.03, 0.12],
    "data.workers": 1,
    "optim.lr": 1e-3,
    "train.global_batch_size": 64,
    "train.evaluate_every": 1000,
    "train.device": "cpu",
}
# The steps give both about the same time: MAE's are cheaper, because it has no teacher and its
# encoder sees a quarter of the patches.
_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilled": (
        "tinymim",
        {
            "teacher.model": f"run:{ASSETS / 'teacher'}",
            "teacher.block": 5,
            "student.drop_path": 0.0,
            "method.relation.heads": 6,
            "train.epochs": 30,
            "optim.warmup_epochs": 3,
        },
    ),
    "alone": (
        "mae",
        {
            "method.decoder.embed_dim": 96,
            "method.decoder.depth": 2,
            "method.decoder.num_heads": 3,
            "train.epochs": 60,
            "optim.warmup_epochs": 6,
        },
    ),
}
_NAMES = {
    "distilled": "distilled from the teacher (TinyMIM)",
    "alone": "pre-trained alone (MAE)",
    "random": "not pre-trained",
}
_FINETUNE = {
    "finetune.epochs": 1,
    "finetune.min_steps": 120,
    "finetune.global_batch_size": 20,
    "workers": 1,
    "device": "cpu",
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        report: the HTML page.
        accuracy: fine-tuned accuracy per student, with its interval over seeds.
        runs: the two pre-training runs.
        seconds: of everything.
    """

    report: Path
    accuracy: dict[str, "Summary"]
    runs: dict[str, PretrainResult]
    seconds: float

    def __str__(self) -> str:
        table = _table(self.accuracy, self.runs)
        widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in (table.header, *table.rows)
        ]
        place = self.report.absolute()
        return "\n".join(["", *lines, "", f"{self.seconds:.0f} s in all; report: {place}"])


def demo(out: str | os.PathLike[str] = "vistill-demo", *, overwrite: bool = False) -> DemoResult:
    """Distil a small student from a packaged teacher and compare it with the same student alone.

    Both are pre-trained for about the same time on 205 unlabelled photographs of blood smears, then
    fine-tuned on 30 labelled tiles of each of three classes and tested on tiles of other
    photographs; five seeds draw labels, head and order.

    Args:
        out: folder for both runs, their scores and `report.html`; the same folder continues.
        overwrite: move an existing folder aside and start anew.

    Raises:
        UserError: `out` belongs to something else.
    """
    start, folder = time.monotonic(), Path(out)
    runs = {}
    for name, (method, settings) in _RUNS.items():
        say(f"\n{_NAMES[name]}")
        run = pretrain(
            method,
            data=ASSETS / "photos.zip",
            out=folder / name,
            overwrite=overwrite,
            overrides=_STUDENT | settings,
        )
        assert run is not None
        runs[name] = run
    accuracy = {}
    for name in ("distilled", "alone", "random"):
        say(f"\nfine-tuning with {LABELS.replace('/', ' labels per ')}: {_NAMES[name]}")
        measured = evaluate(
            f"run:{folder / ('distilled' if name == 'random' else name)}",
            data=f"{ASSETS / 'cells.zip'}/train",
            test=f"{ASSETS / 'cells.zip'}/test",
            protocols=("finetune",),
            labels=(LABELS,),
            seeds=SEEDS,
            random_init=name == "random",
            out=folder / f"finetune-{name}.json",
            overrides=_FINETUNE,
        )
        accuracy[name] = measured.summaries[0]
    result = DemoResult(folder / "report.html", accuracy, runs, time.monotonic() - start)
    _write_report(result, folder)
    return result


def _table(accuracy: dict[str, "Summary"], runs: dict[str, PretrainResult]) -> "Table":
    from vistill.analysis.report import Table

    rows = []
    for name, summary in accuracy.items():
        run = runs.get(name)
        batch = _STUDENT["train.global_batch_size"]
        cost = ["-", "-"] if run is None else [f"{run.steps * batch:,}", f"{run.seconds:.0f} s"]
        interval = f"{100 * summary.low:.1f} to {min(100.0, 100 * summary.high):.1f}"
        rows.append([_NAMES[name], *cost, f"{100 * summary.top1:.1f} %", interval])
    header = ["student", "crops seen", "pre-training", "accuracy", "95 % interval"]
    best = max(range(len(rows)), key=lambda row: list(accuracy.values())[row].top1)
    return Table(header, rows, best=best)


def _write_report(result: DemoResult, folder: Path) -> None:
    from vistill.analysis.report import Section, write_report

    n_test = result.accuracy["distilled"].n_test
    sections = [
        Section(
            "The same student, with and without a teacher",
            text="A vision transformer of 0.7 million parameters was pre-trained on 205 unlabelled "
            "photographs of blood smears, once with a teacher of 2.7 million parameters and once "
            "without, and then fine-tuned on 30 labelled tiles of each class. Accuracy is the mean "
            f"over {len(SEEDS)} seeds on {n_test:,} tiles of other photographs; the interval is "
            "Student's over the seeds.",
            table=_table(result.accuracy, result.runs),
        ),
        Section("Training", curves=_curves(folder)),
        *_picture_sections(),
        Section(
            "Cost",
            text=f"{result.seconds:.0f} seconds in all on {os.cpu_count()} processors, "
            "pre-training and fine-tuning of all students included.",
        ),
        Section("Origin", text=(ASSETS / "README.md").read_text(encoding="utf-8")),
    ]
    write_report(result.report, "vistill demo", sections)


def _curves(folder: Path) -> "Sequence[Curve]":
    from vistill.analysis.report import Curve

    curves = []
    for name in _RUNS:
        lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        batch = _STUDENT["train.global_batch_size"]
        terms = sorted({key for row in rows for key in row if key.startswith("loss/")})
        curves.append(
            Curve(
                f"loss, {_NAMES[name]}",
                "crops seen",
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


def _picture_sections() -> "list[Section]":
    from vistill.analysis.report import Section
    from vistill.data import open_source

    photos = open_source(str(ASSETS / "photos.zip"))
    cells = open_source(f"{ASSETS / 'cells.zip'}/test")
    tiles = [
        (name, cells.read(i))
        for label, name in enumerate(cells.classes or [])
        for i in range(len(cells))
        if cells.labels is not None and cells.labels[i] == label
    ]
    shown = [(photos.sample_name(i), photos.read(i)) for i in range(0, len(photos), 40)]
    return [
        Section("Unlabelled photographs", pictures=shown),
        Section("Labelled tiles", pictures=tiles[:: len(tiles) // 18]),
    ]
