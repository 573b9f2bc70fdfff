"""Questions answered from a list: how many are right (UMT, section 4.3; spec umt 11)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vistill.evaluation.metrics import wilson_interval
from vistill.evaluation.retrieval import Figure


@dataclass(frozen=True)
class AnswerScore:
    """How often the right answer is given.

    Attributes:
        accuracy: percent, with Wilson's interval.
        questions: how many.
        answers: in the list.
        unlisted: percent of the right answers that are not in it, and cannot be given.
        commonest: percent that the commonest right answer alone would get.
    """

    accuracy: Figure
    questions: int
    answers: int
    unlisted: float
    commonest: float

    def __str__(self) -> str:
        lines = [
            f"{self.questions} questions, {self.answers} answers to choose from: "
            f"{self.accuracy} % right; always the commonest answer: {self.commonest:.1f} %"
        ]
        if self.unlisted:
            lines.append(f"{self.unlisted:.1f} % of the right answers are not in the list")
        return "\n".join(lines)


def answer_score(told: Sequence[tuple[str, str]], listed: Collection[str]) -> AnswerScore:
    """Accuracy over questions.

    Args:
        told: right and given answer of each, cleaned.
        listed: the answers that could be given.
    """
    right = [one for one, _ in told]
    hits, count, known = sum(one == given for one, given in told), len(told), set(listed)
    low, high = wilson_interval(hits, count)
    return AnswerScore(
        Figure(100 * hits / count, 100 * low, 100 * high),
        count,
        len(known),
        100 * sum(one not in known for one in right) / count,
        100 * max(map(right.count, set(right))) / count,
    )
