"""Arms trained and measured, each once: equal arms of several claims share a folder."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scripts.claims.claim import Arm
from scripts.claims.tasks import BUDGETS, TASKS, Budget, Task
from scripts.experiments.experiment import linked

import vistill
from vistill.files import write_atomic
from vistill.models.backbone import Backbone
from vistill.runs.inspection import layer_rows
from vistill.stopping import end_with_the_parent


@dataclass(frozen=True)
class Place:
    """Where an experiment is.

    Attributes:
        data: folder of the archives and teachers.
        out: of everything that is made.
        task, budget: names.
    """

    data: Path
    out: Path
    task: str
    budget: str

    @property
    def of(self) -> Task:
        """The task."""
        return TASKS[self.task]

    @property
    def spent(self) -> Budget:
        """On an arm and seed."""
        return BUDGETS[self.budget][self.task]

    def parts(self) -> tuple[Path, Path]:
        """Samples to learn from and to test on."""
        return self.of.parts(self.data, self.out, self.spent)

    def folder(self, told: Mapping[str, Any], seed: int) -> Path:
        """Of one arm and seed."""
        text = json.dumps(told, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
        method = told["method"] or told["student"].replace(" ", "-")
        return self.out / self.budget / self.task / f"{method}-{digest}" / f"seed-{seed}"


def pretrained(place: Place, arm: Arm, seed: int) -> Path:
    """The folder of an arm's run, which is made or continued."""
    told = arm.trained()
    folder = place.folder(told, seed)
    run = folder / "run"
    if arm.method is None or (folder / "spent.json").exists():
        return run
    budget, before = place.spent, time.process_time()
    epochs = max(1, round(budget.epochs * arm.epochs))
    settings = {**place.of.settings, **arm.settings, "seed": seed, "train.epochs": epochs}
    settings |= {"optim.warmup_epochs": min(1.0, epochs / 5), "train.device": budget.device}
    batch = int(settings["train.global_batch_size"])
    source, _ = place.parts()
    if arm.share < 1:
        few = max(1, round(arm.share * budget.unlabelled))
        source = linked(source, few, source.with_name(f"{source.name}-{arm.share:g}"))
    if arm.teacher is None:
        settings = {key: x for key, x in settings.items() if not key.startswith("teacher.")}
    if len(list(source.glob("*/*"))) * 0.98 < batch:
        settings["train.global_batch_size"] = 8
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "arm.json", json.dumps(told, indent=1, default=str) + "\n")
    vistill.pretrain(
        arm.method,
        data=str(source),
        out=run,
        teacher=_teacher(place, arm),
        student=place.of.students[arm.student](seed),
        overrides=settings,
    )
    write_atomic(folder / "spent.json", json.dumps(time.process_time() - before))
    return run


def _teacher(place: Place, arm: Arm) -> Backbone | str | None:
    if arm.teacher is None:
        return None
    if isinstance(arm.teacher, Arm):
        return backbone(place, arm.teacher, 0)
    return place.of.teachers[arm.teacher](place.data)


def backbone(place: Place, arm: Arm, seed: int) -> Backbone:
    """The student of an arm; a fresh one, or a teacher as it is, where nothing is trained."""
    if arm.method is None and arm.student in place.of.teachers:
        found = place.of.teachers[arm.student](place.data)
        size = place.of.settings["data.image_size"]
        return vistill.load_backbone(found, image_size=size) if isinstance(found, str) else found
    student = place.of.students[arm.student](seed)
    if arm.method is None:
        student.origin, student.untrained = "not pre-trained", False
        return student
    export = pretrained(place, arm, seed) / "export" / "last"
    # A module of the scripts' own is given back, for only they can build it.
    return vistill.load_backbone(export, into=student if student.build is None else None)


def _accuracy(protocol: str) -> Callable[[Place, Arm, int], float]:
    def measure(place: Place, arm: Arm, seed: int) -> float:
        budget, (train, test) = place.spent, place.parts()
        settings = {"device": budget.device, "workers": 0, "batch_size": 50}
        if protocol == "finetune":
            settings |= place.of.measuring
            settings["finetune.epochs"] = max(1, round(budget.tuning * arm.tuning))
            settings["finetune.min_steps"] = 0
        found = vistill.evaluate(
            backbone(place, arm, seed),
            data=str(train),
            test=str(test),
            protocols=[protocol],
            labels=[f"{budget.labels}/class"],
            seeds=[seed],
            overrides=settings,
        )
        return 100 * found.scores[0].top1

    return measure


def _layers(figure: str) -> Callable[[Place, Arm, int], float]:
    def measure(place: Place, arm: Arm, seed: int) -> float:
        found = vistill.inspect(
            backbone(place, arm, seed),
            data=str(place.parts()[1]),
            overrides={"device": place.spent.device, "workers": 0},
        )
        return fmean(row[figure] for row in layer_rows(found.models[0]))

    return measure


MEASURES: Mapping[str, Callable[[Place, Arm, int], float]] = {
    "finetune": _accuracy("finetune"),
    "linear": _accuracy("linear"),
    "knn": _accuracy("knn"),
    "spread": _layers("spread"),
    "similarity": _layers("similarity"),
    "diagonal": _layers("diagonal"),
}
"""Accuracies in percent; means over all layers of what `vistill inspect` tells of attention."""


def score(place: Place, arm: Arm, seed: int, measure: str) -> float:
    """What is measured of an arm and seed, from its file where it was before."""
    file = place.folder(arm.plain(), seed) / f"{measure}.json"
    if not file.exists():
        value = MEASURES[measure](place, arm, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(value))
    return float(json.loads(file.read_text()))


def teach(place: Place, arm: Arm) -> None:
    """Train an arm that teaches others."""
    pretrained(place, arm, 0)


def ready() -> None:
    """A process that trains an arm at a time takes one core, and ends with those who asked."""
    end_with_the_parent()
    torch.set_num_threads(1)


def cost(place: Place, arm: Arm, seed: int) -> float:
    """CPU seconds of the pre-training, of its own teacher's with it."""
    file = place.folder(arm.trained(), seed) / "spent.json"
    own = json.loads(file.read_text()) if file.exists() else 0.0
    taught = cost(place, arm.teacher, 0) if isinstance(arm.teacher, Arm) else 0.0
    return own + taught
