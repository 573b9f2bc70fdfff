"""What a comparison came to: one table, the differences that are real, and what failed."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vistill.runs.results import aligned

if TYPE_CHECKING:
    from vistill.evaluation.paired import Difference

HEAD = ("method", "teacher", "student", "seeds", "top-1 %", "95 % interval", "CPU s", "pictures")
"""Of the table."""


@dataclass(frozen=True)
class CellResult:
    """One run of one seed.

    Attributes:
        top1, low, high: accuracy in [0, 1] with Wilson's interval; None where it failed.
        n_test: pictures tested.
        cpu: processor seconds of pre-training, over all its sessions.
        pictures, steps, epochs: shown in pre-training.
        error: why it failed, or None.
    """

    top1: float | None = None
    low: float | None = None
    high: float | None = None
    n_test: int = 0
    cpu: float = 0.0
    pictures: int = 0
    steps: int = 0
    epochs: int = 0
    error: str | None = None


@dataclass(frozen=True)
class RowResult:
    """One way to a student, over seeds.

    Attributes:
        method, teacher, student: what was asked for; no teacher: `-`.
        cells: by seed.
        top1: mean over the seeds that did not fail; None: all did.
        low, high: its 95 % interval, Student's over seeds; of a single one Wilson's.
    """

    method: str
    teacher: str
    student: str
    cells: Mapping[int, CellResult]
    top1: float | None
    low: float | None
    high: float | None

    @property
    def name(self) -> str:
        """What differences call it."""
        taught = "" if self.teacher == "-" else f" by {self.teacher}"
        return f"{self.method}{taught} → {self.student}"

    @property
    def done(self) -> Mapping[int, CellResult]:
        """The cells that did not fail."""
        return {seed: one for seed, one in self.cells.items() if one.top1 is not None}

    @property
    def cost(self) -> tuple[float, float]:
        """Mean processor seconds and pictures of a run."""
        done = self.done.values()
        if not done:
            return 0.0, 0.0
        return fmean(one.cpu for one in done), fmean(one.pictures for one in done)

    def figures(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.top1 is None or self.low is None or self.high is None:
            shown = ("0", "failed", "", "", "")
        else:
            cpu, pictures = self.cost
            interval = f"{100 * self.low:.1f} – {100 * self.high:.1f}"
            shown = (f"{len(self.done)}", f"{100 * self.top1:.1f}", interval, f"{cpu:.0f}",
                     f"{pictures:.0f}")  # fmt: skip
        return (self.method, self.teacher, self.student, *shown)


@dataclass(frozen=True)
class CompareResult:
    """What a comparison came to.

    Attributes:
        rows: the best first.
        differences: all pairs of rows, the surest first.
        protocol: how students were measured.
        budget: in words.
    """

    rows: Sequence[RowResult]
    differences: "Sequence[Difference]"
    protocol: str
    budget: str

    def __str__(self) -> str:
        lines = aligned([HEAD, *(row.figures() for row in self.rows)], left=3)
        tested = max((one.n_test for row in self.rows for one in row.cells.values()), default=0)
        alone = all(len(row.done) < 2 for row in self.rows)
        kind = "over seeds (Student's t)"
        if alone:
            kind = (
                "of the test set (Wilson): one seed tells nothing of others; give several --seeds"
            )
        lines.append(
            f"{self.protocol}, {tested} test pictures; budget {self.budget}; intervals {kind}"
        )
        if self.differences:
            real = [one for one in self.differences if one.real]
            lines.append(
                f"{len(real)} of {len(self.differences)} differences are real (paired over seeds, "
                "corrected for their number, 5 %)" + (":" if real else "")
            )
            for one in real:
                span = f"{100 * one.low:.1f} – {100 * one.high:.1f}"
                lines.append(
                    f"  {one.better} over {one.worse}: {100 * one.mean:.1f} points ({span}), "
                    f"p {one.p:.2g}"
                )
        for row in self.rows:
            for seed, cell in row.cells.items():
                if cell.error is not None:
                    lines.append(f"failed: {row.name}, seed {seed}: {cell.error}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All numbers as JSON text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A line per run."""
        text = io.StringIO()
        names = [*CellResult.__dataclass_fields__]
        table: Any = csv.writer(text, lineterminator="\n")
        table.writerow(["method", "teacher", "student", "seed", *names])
        for row in self.rows:
            for seed, one in row.cells.items():
                shown = [getattr(one, name) for name in names]
                table.writerow([row.method, row.teacher, row.student, seed, *shown])
        return text.getvalue()
