"""What the real runs share: arms that are pre-trained and measured one after the other, each step
once, and a Markdown and JSON table of them."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import vistill
from vistill.evaluation.metrics import Score, Summary, summarize
from vistill.models.backbone import Backbone

# One loader, in this process: a run then keeps one core busy and its CPU seconds are all counted.
ONE_CORE: dict[str, Any] = {"train.device": "cpu", "data.workers": 0, "train.loggers": []}
MEASURE: dict[str, Any] = {"device": "cpu", "workers": 0}


@dataclass(frozen=True)
class Arm:
    """A row of the table: a student, and how it was pre-trained.

    Attributes:
        name: of the row and of its folder.
        student: a fresh one, drawn from a seed.
        method: of `vistill.pretrain`; None: not pre-trained, and fresh for every seed.
        teacher: the frozen model, where the method has one.
        settings: of the pre-training.
        finetune: settings of the fine-tuning; None: only probed (the teacher).
    """

    name: str
    student: Callable[[int], Backbone]
    method: str | None = None
    teacher: Callable[[], Backbone] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Experiment:
    """Where everything is, and what is measured.

    Attributes:
        out: folder of runs, scores and tables.
        unlabelled: pictures of the pre-training.
        train, test: labelled pictures.
        seeds: of labels, head, order, and of students that are not pre-trained.
        budgets: shares of the training labels for fine-tuning.
        probe_budgets: the same for kNN and linear probe.
        probes: settings of kNN and linear probe.
        measures: what is measured now, of `probes` and `finetune`.
        task: leads the names of files, where the same students are measured on several tasks.
    """

    out: Path
    unlabelled: str
    train: str
    test: str
    seeds: Sequence[int] = (0, 1, 2)
    budgets: Sequence[float] = (0.01, 0.1)
    probe_budgets: Sequence[float] = (0.01, 0.1, 1.0)
    probes: Mapping[str, Any] = field(default_factory=dict)
    measures: Sequence[str] = ("probes", "finetune")
    task: str = ""

    def run(self, arm: Arm) -> None:
        """Pre-train and measure one arm; whatever is there already is left as it is."""
        self.pretrain(arm)
        if "probes" in self.measures:
            self._measure(
                arm, "probes", ("knn", "linear"), self.probe_budgets, self.seeds, self.probes
            )
        if "finetune" in self.measures and arm.finetune is not None:
            for seed in self.seeds:
                name = f"finetune-{seed}"
                self._measure(arm, name, ("finetune",), self.budgets, (seed,), arm.finetune)

    def _measure(
        self,
        arm: Arm,
        name: str,
        protocols: Sequence[str],
        budgets: Sequence[float],
        seeds: Sequence[int],
        settings: Mapping[str, Any],
    ) -> None:
        file = self.out / arm.name / f"{self.task}{name}.json"
        if file.exists():
            return
        result = vistill.evaluate(
            self.backbone(arm, seeds[0]),
            data=self.train,
            test=self.test,
            protocols=protocols,
            labels=budgets,
            seeds=seeds,
            out=file,
            overrides=MEASURE | {**settings},
        )
        print(result, flush=True)

    def pretrain(self, arm: Arm) -> None:
        """Run, or go on with, the pre-training of `arm`."""
        if arm.method is None:
            (self.out / arm.name).mkdir(parents=True, exist_ok=True)
            return
        run, spent = self.out / arm.name / "run", time.process_time()
        if (run / "result.json").exists():
            return
        vistill.pretrain(
            arm.method,
            data=self.unlabelled,
            out=run,
            teacher=None if arm.teacher is None else arm.teacher(),
            student=arm.student(0),
            overrides=ONE_CORE | {**arm.settings},
        )
        (self.out / arm.name / "cpu_seconds").write_text(f"{time.process_time() - spent:.0f}\n")

    def backbone(self, arm: Arm, seed: int) -> Backbone:
        """The student as pre-trained, or a fresh one of this seed."""
        student = arm.student(seed)
        if arm.method is None:
            student.origin, student.untrained = "not pre-trained", False
            return student
        export = self.out / arm.name / "run" / "export" / "last"
        # A module of the script's own is given back, for only the script can build it.
        return vistill.load_backbone(export, into=student if student.build is None else None)

    def table(self, arms: Sequence[Arm], title: str) -> str:
        """Markdown of all that was measured so far, also written to `table.md` and `table.json`."""
        rows = {}
        for arm in arms:
            files = sorted((self.out / arm.name).glob(f"{self.task}*.json"))
            found = [Score(**one) for f in files for one in json.loads(f.read_text())["scores"]]
            if found:
                rows[arm.name] = (summarize(found), self._cost(arm))
        columns = [
            *((p, b) for p in ("knn", "linear") for b in self.probe_budgets),
            *(("finetune", b) for b in self.budgets),
        ]
        labels = {"knn": "kNN", "linear": "linear", "finetune": "fine-tuned"}
        head = [
            title,
            *(f"{labels[p]}, {100 * b:g} %" for p, b in columns),
            "pre-training: wall s",
            "CPU s",
        ]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, (summaries, cost) in rows.items():
            cells = {(one.protocol, one.budget): _cell(one) for one in summaries}
            row = [name, *(cells.get(column, "") for column in columns), *cost]
            lines.append("| " + " | ".join(row) + " |")
        text = "\n".join(lines) + "\n"
        numbers = {
            name: {
                "pretraining_seconds": cost,
                "summaries": [asdict(one) for one in summaries],
                "settings": {"method": arm.method, **arm.settings},
                "finetune": arm.finetune and {**arm.finetune},
            }
            for arm in arms
            for name, (summaries, cost) in rows.items()
            if name == arm.name
        }
        (self.out / f"{self.task}table.md").write_text(text)
        (self.out / f"{self.task}table.json").write_text(json.dumps(numbers, indent=1) + "\n")
        return text

    def _cost(self, arm: Arm) -> list[str]:
        folder = self.out / arm.name
        if not (folder / "cpu_seconds").exists():
            return ["0", "0"]
        wall = json.loads((folder / "run" / "result.json").read_text())["seconds"]
        return [f"{wall:.0f}", (folder / "cpu_seconds").read_text().strip()]


def _cell(one: Summary) -> str:
    return f"{100 * one.top1:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def unpacked(data: Path, out: Path) -> Path:
    """The folder with the labelled pictures: `data` itself, or an archive's, unpacked once."""
    if data.is_dir():
        return data
    folder = out / "pictures"
    if not folder.exists():
        aside = out / "pictures.part"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.unpack_archive(data, aside, filter="data" if ".tar" in data.name else None)
        aside.rename(folder)
    return folder


def listed(folder: Path, per_class: int | None, file: Path) -> str:
    """A list of the first `per_class` pictures of every class, without their labels."""
    names = [
        str(picture.absolute())
        for kind in sorted(p for p in folder.iterdir() if p.is_dir())
        for picture in sorted(kind.iterdir())[:per_class]
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(names) + "\n")
    return str(file)


def linked(folder: Path, per_class: int, out: Path) -> Path:
    """A folder of the first samples of every class of another one, as links."""
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        (out / kind.name).mkdir(parents=True, exist_ok=True)
        for sample in sorted(kind.iterdir())[:per_class]:
            link = out / kind.name / sample.name
            if not link.exists():
                link.symlink_to(sample.resolve())
    return out


def seeded(build: Callable[[], Backbone]) -> Callable[[int], Backbone]:
    """A student as a function of its seed."""

    def student(seed: int) -> Backbone:
        torch.manual_seed(seed)
        return build()

    return student
