"""What results say when they are printed."""

from vistill.evaluation.metrics import Score, summarize
from vistill.runs.results import EvaluateResult


def make(protocol: str, seed: int) -> Score:
    return Score(protocol, 1.0, 20, seed, 0.5 + seed / 10, None, 0.4, 0.6, 50, 1.0)


def test_the_footnote_says_what_the_intervals_are() -> None:
    knn, linear = make("knn", 0), (make("linear", 0), make("linear", 1))
    notes = {
        (knn,): "intervals of the test set (Wilson); 50 test pictures",
        linear: "intervals over seeds (Student's t); 50 test pictures",
        (knn, *linear): "intervals over seeds (Student's t) or, for a single seed, of the test set "
        "(Wilson); 50 test pictures",
    }
    for scores, note in notes.items():
        result = EvaluateResult({}, "", scores, tuple(summarize(scores)))
        assert str(result).splitlines()[-1] == note
