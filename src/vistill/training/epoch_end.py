"""The end of an epoch on rank 0: evaluate, find the best weights, export."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from vistill.training.state import Best, State

Evaluate = Callable[[int], dict[str, float]]
Export = Callable[[str, str], None]


@dataclass(frozen=True)
class EpochEnd:
    """What is done when an epoch ends.

    Attributes:
        evaluate: gives the numbers of a finished epoch; None measures nothing.
        export: called with a student's name (empty where there is one) and `last` or `best`.
        say: shows a line.
        students: names of what learns.
        epochs: length of the run.
    """

    evaluate: Evaluate | None
    export: Export | None
    say: Callable[[str], None]
    students: Collection[str]
    epochs: int

    def __call__(
        self, epoch: int, state: State
    ) -> tuple[dict[str, float], dict[str, Best], dict[str, str]]:
        """The numbers of the evaluation, the best of each student now, and doubts about them."""
        values = {} if self.evaluate is None else self.evaluate(epoch)
        before, new = state.best, Best.among(values, epoch, state.step)
        told = {name: one.doubt(state.first.get(name)) for name, one in new.items()}
        doubts = {name: doubt for name, doubt in told.items() if doubt is not None}
        improved = {
            name: one
            for name, one in new.items()
            if name not in doubts and one.beats(before.get(name))
        }
        if values:
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            which = f" (best: {', '.join(improved)})" if improved.keys() - {""} else " (best)"
            self.say(f"epoch {epoch}: {text}" + (which if improved else ""))
            for name, doubt in doubts.items():
                owner = f"{name}: " if name else ""
                self.say(f"epoch {epoch}: {owner}{doubt}; it cannot be the best")
        if self.export is not None:
            for name in self.students:
                self.export(name, "last")
                # Without any evaluation the last weights are the best there are.
                if name in improved or (name not in before and epoch == self.epochs):
                    self.export(name, "best")
        return values, before | improved, doubts
