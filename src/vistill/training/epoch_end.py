"""The end of an epoch on rank 0: evaluate, find the best weights, look ahead, export."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from vistill.config.schema import TrainConfig
from vistill.training.outlook import Outlook, next_end, outlooks
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
        train: how many epochs the run has, and whether it ends where nothing is gained any more.
    """

    evaluate: Evaluate | None
    export: Export | None
    say: Callable[[str], None]
    students: Collection[str]
    train: TrainConfig

    def __call__(self, epoch: int, state: State) -> tuple[dict[str, float], State]:
        """The numbers of the evaluation, and the state of the run with what they mean for it."""
        epochs = self.train.epochs
        values = {} if self.evaluate is None else self.evaluate(epoch)
        before, new = state.best, Best.among(values, epoch, state.step)
        told = {name: one.doubt(state.first.get(name)) for name, one in new.items()}
        doubts = {name: doubt for name, doubt in told.items() if doubt is not None}
        improved = {
            name: one
            for name, one in new.items()
            if name not in doubts and one.beats(before.get(name))
        }
        curves = dict(state.curves)
        for name, one in new.items():
            key = f"{name}/{one.metric}" if name else one.metric
            curves[key] = [*curves.get(key, ()), (epoch, one.value)]
        coming = outlooks(curves, next_end(epoch, epochs))
        # Near the end too little is left to show what is learned: as far again as it came.
        far = outlooks(curves, max(epochs, 2 * epoch))
        flat = epoch < epochs and bool(new) and _all_flat(far, len(new))
        if values:
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            which = f" (best: {', '.join(improved)})" if improved.keys() - {""} else " (best)"
            ahead = "".join(f"; {one.sentence(key)}" for key, one in coming.items())
            self.say(f"epoch {epoch}: {text}{which if improved else ''}{ahead}")
            for name, doubt in doubts.items():
                owner = f"{name}: " if name else ""
                self.say(f"epoch {epoch}: {owner}{doubt}; it cannot be the best")
        if flat and self.train.stop_when == "flat":
            self.say(f"epoch {epoch}: {_why_flat(far)}, so the run ends (train.stop_when=flat)")
        if self.export is not None:
            for name in self.students:
                self.export(name, "last")
                # Without any evaluation the last weights are the best there are.
                if name in improved or (name not in before and epoch == epochs):
                    self.export(name, "best")
        best = before | improved
        state = replace(state, best=best, doubts=doubts, curves=curves, flat=flat)
        return values, replace(state, evaluated=epoch, unlogged={})


def _all_flat(coming: dict[str, Outlook], students: int) -> bool:
    return len(coming) == students and all(ahead.flat for ahead in coming.values())


def _why_flat(coming: dict[str, Outlook]) -> str:
    most = ", ".join(
        f"{name} gains {max(ahead.gain_high, 0):.2g} at most, less than the {ahead.scatter:.2g} by "
        "which one evaluation scatters"
        for name, ahead in coming.items()
    )
    return f"up to epoch {next(iter(coming.values())).epoch} {most}"
