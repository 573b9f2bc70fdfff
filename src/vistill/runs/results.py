"""What the commands return and say: plain data that prints itself, once for all ranks."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from vistill.evaluation.answers import AnswerScore
    from vistill.evaluation.boxes.scores import BoxScore
    from vistill.evaluation.detection.detect import DetectionScore
    from vistill.evaluation.metrics import Score, Summary
    from vistill.evaluation.retrieval import ChoiceScore, RetrievalScore
    from vistill.evaluation.robustness import RobustnessScore
    from vistill.evaluation.segmentation.scores import SegmentationScore


Table = Mapping[str, Any]
"""Some fields of an `EvaluateResult`: what an evaluator gives."""

_INTERVALS = {"t": "over seeds (Student's t)", "wilson": "of the test set (Wilson)"}

_SHOWN = 5e-4
"""Difference of two shares that shows in percents of one decimal."""


def _budget(budget: float | str) -> str:
    return budget if isinstance(budget, str) else f"{100 * budget:g} %"


def few_seeds(summary: "Summary") -> str:
    """What to make of an interval over too few seeds."""
    return (
        f"{summary.protocol}, {_budget(summary.budget)}: {len(summary.seeds)} seeds say little; "
        f"about {summary.seeds_needed} would give an interval that does"
    )


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table whose first `left` columns stand to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def main_rank() -> bool:
    """Whether this process is the one of `torchrun`'s ranks that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print, on one rank only."""
    if main_rank():
        print(text, flush=True)


def say_notes(path: str, notes: Iterable[str]) -> None:
    """Print what of the data at `path` was left out or is read in a way that may surprise."""
    for note in notes:
        say(f"note     {path}: {note}")


@dataclass(frozen=True)
class StudentResult:
    """What one of several students came to.

    Attributes:
        backbone: folder of the exported student.
        best: metric, value, epoch and step of its best evaluation, or None.
        doubt: why its last evaluation cannot be the best, or None.
        outlook: what as many more epochs would bring: `metric`, the fields of an `Outlook` and
            `text`; None where that cannot be told.
    """

    backbone: Path
    best: Mapping[str, Any] | None
    doubt: str | None = None
    outlook: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PretrainResult:
    """What a pre-training run came to.

    Attributes:
        out: folder of the run.
        backbone: folder of the exported student, the best where there was a way to tell.
        steps: optimiser steps.
        epochs: passes over the pictures.
        terms: mean of every loss term over the last epoch.
        best: metric, value, epoch and step of the best evaluation, or None.
        seconds: wall time over all sessions.
        stages: results of a chain's students, the last of which is this one; empty without a chain.
        students: where several learned together, each by its name; else empty.
        doubt: why the last evaluation cannot be the best, or None.
        outlook: what as many more epochs would bring: `metric`, the fields of an `Outlook` and
            `text`; None where that cannot be told.
    """

    out: Path
    backbone: Path
    steps: int
    epochs: int
    terms: Mapping[str, float]
    best: Mapping[str, Any] | None
    seconds: float
    stages: tuple["PretrainResult", ...] = ()
    students: Mapping[str, StudentResult] = field(default_factory=dict)
    doubt: str | None = None
    outlook: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        terms = ", ".join(
            f"{name.removeprefix('loss/')} {value:.4g}" for name, value in self.terms.items()
        )
        text = f"finished {self.steps} steps: {terms}{_best(self.best, self.doubt)}"
        text += _more(self.outlook)
        if not self.students:
            return f"{text}\nbackbone: {self.backbone}"
        lines = [
            f"{name}: {one.backbone}{_best(one.best, one.doubt)}{_more(one.outlook)}"
            for name, one in self.students.items()
        ]
        return "\n".join([text, *lines])

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self), default=str, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "PretrainResult":
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["out"], values["backbone"] = Path(values["out"]), Path(values["backbone"])
        students = {
            name: StudentResult(**one | {"backbone": Path(one["backbone"])})
            for name, one in values.get("students", {}).items()
        }
        return cls(**values | {"stages": (), "students": students})


def _best(best: Mapping[str, Any] | None, doubt: str | None) -> str:
    text = ""
    if best is not None:
        text = f"; best {best['metric']} {best['value']:.4g} after epoch {best['epoch']}"
    if doubt is not None:
        kept = "" if best is not None else "; export/best holds the last weights"
        text += f"; at the end {doubt}{kept}"
    return text


def _more(outlook: Mapping[str, Any] | None) -> str:
    return "" if outlook is None else f"; {outlook['text']}"


def retrieval_table(
    scores: "Sequence[RetrievalScore]", broken: Sequence[str], of_clips: bool
) -> str:
    """Both directions by each ranking, with intervals."""
    noun = "clip" if of_clips else "picture"
    head = ("query", "ranking", "R@1 %", "R@5 %", "R@10 %", "median rank", "mean rank")
    lines = ["{:<8} {:<11} {:>19} {:>19} {:>19} {:>19} {:>21}".format(*head)]
    for score in scores:
        for query, found in (("text", score.text_to_media), (noun, score.media_to_text)):
            figures = (found.r1, found.r5, found.r10, found.median_rank, found.mean_rank)
            cells = " ".join(f"{figure!s:>19}" for figure in figures[:-1])
            lines.append(f"{query:<8} {score.ranking:<11} {cells} {figures[-1]!s:>21}")
    texts, media = scores[0].text_to_media.queries, scores[0].media_to_text.queries
    lines.append(
        f"{texts} texts, {media} {noun}s; by chance R@1 would be {100 / media:.2g} %; 95 % "
        f"intervals by bootstrap over {noun}s"
    )
    return "\n".join([*lines, *_unread(broken)])


def choice_line(score: "ChoiceScore") -> str:
    """One ranking's accuracy."""
    return (
        f"multiple choice by {score.ranking}: {score.accuracy} % of {score.questions} right; by "
        f"chance {score.by_chance:.1f} %"
    )


def _unread(broken: Sequence[str]) -> list[str]:
    if not broken:
        return []
    few = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
    return [f"left out, since unreadable: {len(broken)}: {few}"]


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation came to.

    Attributes:
        config: the evaluation's settings.
        weights: where the backbone's weights came from.
        scores: one per protocol, label budget and seed.
        summaries: one per protocol and label budget, over all seeds.
        robustness: errors on corrupted pictures.
        detection: one per seed where people's actions were detected.
        segmentation: one per seed where the class of every pixel was told.
        boxes: one per seed where things in pictures were found.
        retrieval: where captions and what they describe found each other, by each ranking.
        choices: how often the right caption was chosen, by each ranking.
        answers: how often a question was answered right.
        broken: what could not be read in these three, and why.
    """

    config: Mapping[str, Any]
    weights: str
    scores: "tuple[Score, ...]" = ()
    summaries: "tuple[Summary, ...]" = ()
    robustness: "RobustnessScore | None" = None
    detection: "tuple[DetectionScore, ...]" = ()
    segmentation: "tuple[SegmentationScore, ...]" = ()
    boxes: "tuple[BoxScore, ...]" = ()
    retrieval: "tuple[RetrievalScore, ...]" = ()
    choices: "tuple[ChoiceScore, ...]" = ()
    answers: "AnswerScore | None" = None
    broken: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = (text for table, text in _TEXTS.items() if getattr(self, table))
        return "\n".join(next(told, _classified)(self))

    def to_json(self) -> str:
        """All numbers as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _classified(result: EvaluateResult) -> list[str]:
    """Accuracy by protocol and label budget."""
    head = ("protocol", "labels", "top-1 %", "95 % interval", "top-5 %")
    lines = ["{:<9} {:>14} {:>8} {:>15} {:>8}".format(*head)]
    for one in result.summaries:
        share = _budget(one.budget)
        top5 = "" if one.top5 is None else f"{100 * one.top5:.1f}"
        lines.append(
            f"{one.protocol:<9} {f'{share} ({one.labels_used})':>14} {100 * one.top1:>8.1f} "
            f"{f'{100 * one.low:.1f} – {100 * one.high:.1f}':>15} {top5:>8}".rstrip()
        )
    for found in result.scores:
        if found.setting is not None:
            best = found.setting
            lines.append(
                f"{found.protocol}, {_budget(found.budget)}, seed {found.seed}: "
                f"lr={best.lr:g} and weight_decay={best.weight_decay:g} were right on "
                f"{100 * best.validation_top1:.1f} % of held-out training pictures"
            )
    for summary in result.summaries:
        if summary.best_top1 is not None:
            lines.append(
                f"{summary.protocol}, {_budget(summary.budget)}: best test during training "
                f"{100 * summary.best_top1:.1f} %, which is chosen on test pictures"
            )
    for summary in result.summaries:
        mean = summary.mean_per_class
        if mean is not None and abs(mean - summary.top1) >= _SHOWN:
            lines.append(
                f"{summary.protocol}, {_budget(summary.budget)}: mean per class {100 * mean:.1f} %"
            )
    if result.scores and (names := result.scores[0].untested):
        few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        count = "1 class has" if len(names) == 1 else f"{len(names)} classes have"
        lines.append(f"{count} no test picture and no part in the mean per class: {few}")
    for found in result.scores:
        if found.among is not None:
            lines.append(_among(found.among))
    lines += [few_seeds(one) for one in result.summaries if one.seeds_needed is not None]
    if result.summaries:
        kinds = {one.interval for one in result.summaries}
        what = " or, for a single seed, ".join(_INTERVALS[kind] for kind in sorted(kinds))
        noun = "clips" if result.config.get("frames") else "pictures"
        lines.append(f"intervals {what}; {result.summaries[0].n_test} test {noun}")
    return lines


def _segmented(scores: "Sequence[SegmentationScore]") -> list[str]:
    """All figures, and the mean over seeds of every class's intersection over union."""
    names = scores[0].iou
    lines = [*map(str, scores), "IoU % by class:"]
    for name in names:
        found = [100 * one.iou[name] for one in scores if name in one.iou]
        lines.append(f"  {name:<20} {sum(found) / len(found):>5.1f}")
    lines.append("95 % intervals by bootstrap over test pictures")
    return [*lines, *_unread(sorted({name for one in scores for name in one.broken}))]


def _things(scores: "Sequence[BoxScore]") -> list[str]:
    """All figures, and the mean over seeds of every class's average precision."""
    lines = list(map(str, scores))
    for what in ("boxes", "masks"):
        found = [one.by_class for score in scores if (one := getattr(score, what)) is not None]
        if not found:
            continue
        lines.append(f"AP % of {'boxes' if what == 'boxes' else 'shapes'} by class, and at 0.5:")
        for name in found[0]:
            some = [one[name] for one in found if name in one]
            ap, half = (sum(values) / len(some) for values in zip(*some, strict=True))
            lines.append(f"  {name:<20} {ap:>5.1f} {half:>5.1f}")
    lines.append("95 % intervals by bootstrap over test pictures")
    return [*lines, *_unread(sorted({name for one in scores for name in one.broken}))]


def robustness_table(score: "RobustnessScore") -> list[str]:
    """Errors by corruption and severity, and their means."""
    ratios = bool(score.by_reference)
    levels = list(next(iter(score.errors.values())))
    head = ["error %", *map(str, levels), "mean"]
    rows = [head + (["of reference %"] if ratios else [])]
    for name, errors in score.errors.items():
        cells = [name, *(f"{one.value:.1f}" for one in errors.values())]
        cells.append(str(score.corruptions[name]))
        if ratios:
            cells.append(str(score.by_reference.get(name, "")))
        rows.append(cells)
    many = f"{score.averaged} corruptions" if score.averaged > 1 else "this corruption"
    lines = aligned(rows)
    lines.append(f"clean error {score.clean} %, mean error under {many} {score.mean} %")
    if score.relative is not None:
        lines.append(f"mean corruption error relative to {score.reference}: {score.relative} %")
    elif score.reference is not None:
        lines.append(f"{score.reference} makes no error, so that nothing is relative to it")
    if score.frost is not None:
        lines.append(f"frost: {score.frost}")
    lines += [] if score.among is None else [_among(score.among)]
    lines.append(
        "95 % intervals by bootstrap over pictures, of the clean error Wilson's; "
        f"{score.pictures} pictures"
    )
    return lines + _unread(score.broken)


def _among(among: tuple[int, int]) -> str:
    """Which scores were compared."""
    return f"among the {among[0]} classes of the data alone, of {among[1]} (among=all: of all)"


_TEXTS: Mapping[str, Callable[[EvaluateResult], list[str]]] = {
    "robustness": lambda result: robustness_table(cast("RobustnessScore", result.robustness)),
    "detection": lambda result: [*map(str, result.detection)],
    "segmentation": lambda result: _segmented(result.segmentation),
    "boxes": lambda result: _things(result.boxes),
    "retrieval": lambda result: [
        retrieval_table(result.retrieval, result.broken, bool(result.config.get("frames")))
    ],
    "choices": lambda result: [*map(choice_line, result.choices), *_unread(result.broken)],
    "answers": lambda result: [str(result.answers), *_unread(result.broken)],
}
"""What is printed, by the table that is there; without one of these the accuracies."""
