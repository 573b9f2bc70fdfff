"""A model measured by the evaluator of a protocol, which is found by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.answering import answer
from vistill.runs.classifying import classify, test_head
from vistill.runs.corrupting import measure_robustness
from vistill.runs.detecting import detect_actions
from vistill.runs.finding import find_things
from vistill.runs.measured import Asked, Named, answers_of, backbone_of, reader_of
from vistill.runs.results import EvaluateResult, Table
from vistill.runs.retrieving import choose, retrieve
from vistill.runs.segmenting import segment


@dataclass(frozen=True)
class Evaluator:
    """How a protocol measures.

    Attributes:
        evaluate: `(model, data, options, world) -> table`. The model is a `Named`, data the path
            that the user gave, options are all settings, of which the protocol's own stand in the
            section of its name; a table is some fields of an `EvaluateResult`.
        load: the model that it measures.
        learns: whether anything is trained or compared, for which fresh weights are a baseline.
    """

    evaluate: Callable[..., Table]
    load: Callable[[Asked], Any] = backbone_of
    learns: bool = True


EVALUATORS: Mapping[str, Evaluator] = {
    "knn": Evaluator(classify),
    "linear": Evaluator(classify),
    "finetune": Evaluator(classify),
    "test": Evaluator(test_head, learns=False),
    "robustness": Evaluator(measure_robustness, learns=False),
    "detection": Evaluator(detect_actions),
    "segmentation": Evaluator(segment),
    "boxes": Evaluator(find_things),
    "retrieval": Evaluator(retrieve, reader_of),
    "multiple-choice": Evaluator(choose, reader_of),
    "questions": Evaluator(answer, answers_of),
}
"""By protocol."""


def require_use(config: EvaluateConfig, data: str, test: str | None, random_init: bool) -> None:
    """
    Raises:
        UserError: test pictures, or fresh weights, of a protocol that learns nothing.
    """
    protocol = config.protocols[0]
    if EVALUATORS[protocol].learns:
        return
    if test is not None:
        raise UserError(
            f"the protocol {protocol} learns nothing from --data {data}; give the pictures to test "
            f"on, {test}, as --data alone"
        )
    if random_init:
        raise UserError(
            f"the protocol {protocol} measures a model as it was fine-tuned, so --random-init has "
            "no use; leave it out"
        )


def measure(asked: Asked) -> EvaluateResult:
    """Let the evaluator of the protocols measure, on all ranks together.

    Raises:
        UserError: something that does not go together.
    """
    from vistill.training.distributed import connect

    config, evaluator = asked.config, EVALUATORS[asked.config.protocols[0]]
    world = connect(config.device, "device")
    model = evaluator.load(asked)
    table = evaluator.evaluate(Named(model, asked.named, asked.given), asked.data, config, world)
    told = {"config": config.model_dump(mode="json"), "weights": model.origin}
    return EvaluateResult(**{**told, **table})
