"""Which teacher to try first, by what its features are like on one's own pictures."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.config.rank_teachers import RankConfig
from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.runs.embedding import feature_job
from vistill.runs.looking import drawn, looked_at, taking
from vistill.runs.places import require_writable
from vistill.runs.reference import require_different
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.evaluation_page import page_of
from vistill.runs.reports.ranking_page import write_ranking
from vistill.runs.results import aligned, say
from vistill.runs.samples import open_samples

if TYPE_CHECKING:
    from torch import Tensor

    from vistill.analysis.teachers import TeacherScores
    from vistill.batch import Batch

_STUDENT = 192
_HEAD = ("teacher", "width", "rank", "std ratio", "after SVD", "energy %", "kNN %", "compactness",
         "cos gap", "CPU s / 1,000")  # fmt: skip


@dataclass(frozen=True)
class RankResult:
    """What was found.

    Attributes:
        scores: of every teacher, in the order given.
        student_width: directions that the figures after the SVD are of.
        seen: how many pictures or clips.
        best: the teacher to try first.
        reason: why.
    """

    scores: "Sequence[TeacherScores]"
    student_width: int
    seen: int
    best: str
    reason: str

    def table(self) -> list[tuple[str, ...]]:
        """Names of the columns, then a row for every teacher."""
        rows: list[tuple[str, ...]] = [_HEAD]
        for one in self.scores:
            knn, low_high = one.knn, one.knn_interval
            voted = "" if knn is None or low_high is None else (
                f"{100 * knn:.1f} ({100 * low_high[0]:.1f} – {100 * low_high[1]:.1f})"
            )  # fmt: skip
            compact, interval = one.compactness, one.compactness_interval
            tight = "" if compact is None or interval is None else (
                f"{compact:.3f} ({interval[0]:.3f} – {interval[1]:.3f})"
            )  # fmt: skip
            gap = "" if one.cos_gap is None else f"{one.cos_gap:.3f}"
            figures = (f"{one.width}", f"{one.effective_rank:.1f}", f"{one.std_ratio:.3g}",
                       f"{one.svd_std_ratio:.3g}", f"{100 * one.energy:.1f}")  # fmt: skip
            rows.append((one.name, *figures, voted, tight, gap, f"{one.seconds:.1f}"))
        return rows

    def __str__(self) -> str:
        lines = aligned(self.table())
        lines.append(f"{self.seen} pictures, a student of {self.student_width} channels")
        lines.append(f"try first: {self.best}: {self.reason}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All numbers as JSON text."""
        told = {"scores": [asdict(one) for one in self.scores],
                "student_width": self.student_width, "seen": self.seen,
                "best": self.best, "reason": self.reason}  # fmt: skip
        return json.dumps(told, indent=1) + "\n"


def rank_teachers(
    config: RankConfig,
    teachers: Sequence[Any],
    data: str,
    student: str | None = None,
    out: Path | None = None,
) -> RankResult:
    """Look at the same pictures with every teacher.

    Args:
        config: how samples are read, and how many.
        teachers: references or backbones, at least two.
        data: pictures, or clips for teachers of clips; labels help.
        student: a name that tells the student's width.
        out: JSON file for the numbers; a page goes beside it.

    Raises:
        UserError: a teacher cannot be had, or there are too few pictures.
    """
    import torch

    from vistill.analysis.teachers import (
        TeacherScores,
        compactness_with_interval,
        of_features,
        recommended,
    )
    from vistill.evaluation.knn import knn_votes
    from vistill.evaluation.metrics import wilson_interval

    if len(teachers) < 2:
        raise UserError("rank-teachers compares teachers: give two or more")
    names = require_different("rank-teachers", teachers)
    page = None
    if out is not None:
        require_writable(out)
        page = page_of(out)
    width = _student_width(config, student)
    scores, seen = [], 0
    for name, teacher in zip(names, teachers, strict=True):
        job = feature_job(config, teacher)
        own = taking(config, job.clips)
        source = open_samples(own, data, "image" if job.clips is None else "video")
        samples = drawn(source, config.pictures, config.seed)
        spent = [0.0]

        def compute(batch: "Batch", job: Any = job, spent: list[float] = spent) -> "Tensor":
            began = time.process_time()
            found = job.compute(batch)
            spent[0] += time.process_time() - began
            return found

        say(f"looking with {name}")
        found = looked_at(own, job.module, compute, source, samples)
        features, labels, seen = found.features.double(), found.labels, len(found.ids)
        if seen < 4:
            raise UserError(f"rank-teachers needs four pictures that can be read, not {seen}")
        figures: dict[str, Any] = of_features(features, width)
        several = torch.isin(labels, _shared(labels[labels >= 0]))
        if len(labels[several].unique()) > 1:
            known, classes = features[several], labels[several]
            count = int(classes.max()) + 1
            votes = knn_votes(known, classes, known, count, k=config.k, itself=False)
            hits = int((votes.argmax(dim=1) == classes).sum())
            compact, interval, gap = compactness_with_interval(known, classes)
            figures |= {"knn": hits / len(votes), "knn_interval": wilson_interval(hits, len(votes)),
                        "compactness": compact, "compactness_interval": interval,
                        "cos_gap": gap}  # fmt: skip
        scores.append(TeacherScores(name, seconds=1000 * spent[0] / seen, **figures))
    result = RankResult(scores, width, seen, *recommended(scores))
    if out is not None and page is not None:
        write_atomic(out, result.to_json())
        told = config.model_dump(mode="json")
        attempt(page, lambda: write_ranking(result, page, data, told))
    return result


def _student_width(config: RankConfig, student: str | None) -> int:
    if student is None:
        return config.student_width or _STUDENT
    if config.student_width is not None:
        raise UserError(
            f"student_width={config.student_width} and --student {student} both say how wide the "
            "student is; leave one of them out"
        )
    from vistill.models.build import create_backbone

    return create_backbone(student, image_size=224).feature_width


def _shared(labels: "Tensor") -> "Tensor":
    """Classes that two pictures or more have."""
    classes, counts = labels.unique(return_counts=True)
    return classes[counts > 1]
