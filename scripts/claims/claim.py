"""A claim of a paper, the ways of training that it compares, and what the scores say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from vistill.evaluation.metrics import t_interval

Verdict = Literal["held", "not seen", "reversed"]
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Arm:
    """A way of making a student; equal arms of several claims are trained once.

    Attributes:
        name: in tables.
        method: of `vistill.pretrain`; None: not pre-trained.
        settings: of the pre-training, beside those of the task.
        teacher: one of the task's, or an arm, whose first seed teaches.
        student: one of the task's; or the task's teacher, measured as it is.
        epochs: of the budget's.
        share: of the task's unlabelled samples.
        tuning: fine-tuning of so many times the usual length.
    """

    name: str
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: "str | Arm | None" = None
    student: str = "student"
    epochs: float = 1.0
    share: float = 1.0
    tuning: float = 1.0

    def plain(self) -> dict[str, Any]:
        """What makes it this arm, whatever it is called."""
        teacher = self.teacher.plain() if isinstance(self.teacher, Arm) else self.teacher
        told = {key: value for key, value in vars(self).items() if key != "name"}
        return told | {"settings": dict(sorted(self.settings.items())), "teacher": teacher}

    def trained(self) -> dict[str, Any]:
        """What makes its pre-training this one, however it is fine-tuned."""
        return self.plain() | {"tuning": 1.0}


@dataclass(frozen=True)
class Claim:
    """What a paper says.

    Attributes:
        paper, place: which, and where in it.
        says: in our words.
        task: what it is tried on.
        arms: the ways it compares, the best first.
        pairs: (better, worse) by position; default: each and the next.
        measure: what decides, one of `measures`.
        falls: whether less is better.
        kind: `better`; or `no gain`: the first of a pair is no better than the second by a point.
        refuted: what would speak against it.
    """

    paper: str
    place: str
    says: str
    task: str
    arms: Sequence[Arm]
    refuted: str
    pairs: Sequence[tuple[int, int]] = ()
    measure: str = "finetune"
    falls: bool = False
    kind: Literal["better", "no gain"] = "better"

    def compared(self) -> Sequence[tuple[Arm, Arm]]:
        """Pairs of arms, the better one first."""
        pairs = self.pairs or [(i, i + 1) for i in range(len(self.arms) - 1)]
        return [(self.arms[better], self.arms[worse]) for better, worse in pairs]


@dataclass(frozen=True)
class Difference:
    """Of two arms, by the same seeds.

    Attributes:
        better, worse: their names, as the claim has it.
        mean, low, high: by how much, and its 95 % interval.
        seeds: that both have.
        verdict: on this pair.
    """

    better: str
    worse: str
    mean: float
    low: float
    high: float
    seeds: int
    verdict: Verdict


def difference(
    claim: Claim, pair: tuple[Arm, Arm], scores: Mapping[str, Mapping[int, float]]
) -> Difference | None:
    """What the seeds say of a pair; None before there are two.

    Args:
        claim: of the pair.
        pair: the better and the worse one.
        scores: by arm and seed.
    """
    better, worse = (scores.get(arm.name, {}) for arm in pair)
    shared = sorted(better.keys() & worse.keys())
    if len(shared) < 2:
        return None
    sign = -1 if claim.falls else 1
    gaps = [sign * (better[seed] - worse[seed]) for seed in shared]
    mean, low, high = t_interval(gaps)
    verdict: Verdict = "not seen"
    if len(shared) >= LEAST_SEEDS:
        if claim.kind == "no gain":
            verdict = "held" if high < 1 else "reversed" if low > 0 else "not seen"
        else:
            verdict = "held" if low > 0 else "reversed" if high < 0 else "not seen"
    return Difference(pair[0].name, pair[1].name, mean, low, high, len(shared), verdict)


def verdict_of(found: Sequence[Difference | None]) -> Verdict:
    """On the claim: it holds where every pair does, and is reversed where one is."""
    verdicts = {"not seen" if one is None else one.verdict for one in found}
    if "reversed" in verdicts:
        return "reversed"
    return "held" if verdicts == {"held"} else "not seen"


def spread(scores: Mapping[int, float]) -> str:
    """Mean and interval over seeds, as a cell of a table."""
    values = list(scores.values())
    if len(values) < 2:
        return f"{fmean(values):.1f}" if values else ""
    mean, low, high = t_interval(values)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
