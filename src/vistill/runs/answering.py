"""Questions about pictures or clips, answered from a list."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.files import local_path
from vistill.runs.looking import looked_at, opened
from vistill.runs.measured import Named, with_frames
from vistill.runs.results import Table

if TYPE_CHECKING:
    from torch import Tensor

    from vistill.batch import Batch
    from vistill.models.text.answering import UMTAnswers
    from vistill.training.distributed import World

_QUESTIONS = 64
"""Answered in one pass."""


def answer(model: "Named[UMTAnswers]", data: str, config: EvaluateConfig, world: "World") -> Table:
    """The evaluator `questions`: how many are answered right.

    Args:
        model: trained on questions.
        data: pictures or clips with a question and its answer.
        config: `frames` are those of a clip; None for pictures.
        world: the ranks, which share the pictures.

    Raises:
        UserError: there are no questions, or the list of answers cannot be read.
    """
    import numpy as np
    import torch

    from vistill.data.captioned import AskedSource
    from vistill.evaluation.answers import answer_score
    from vistill.text_cleanup import clean

    own, config = model.model, with_frames(config, model.model)
    listed = own.answers
    if config.questions.answers is not None:
        listed = tuple(dict.fromkeys(map(clean, read_answers(config.questions.answers))))
    source = AskedSource(opened(config, data))
    rows = list(source.rows_of_files().values())
    of_first, said = {several[0]: several for several in rows}, dict[int, str]()
    assert source.captions is not None
    texts = source.captions

    def compute(batch: "Batch") -> "Tensor":
        tokens = own.see(own.normalization(batch.unit_pixels()))
        asked = [(place, row) for place, first in enumerate(batch.ids.tolist())
                 for row in of_first[first]]  # fmt: skip
        for start in range(0, len(asked), _QUESTIONS):
            places, some = zip(*asked[start : start + _QUESTIONS], strict=True)
            questions = [texts[row][0] for row in some]
            found = own.answer(tokens[list(places)], questions, listed, config.questions.top)
            said.update(zip(some, found, strict=True))
        return torch.zeros(len(batch), 1)

    firsts = np.array([several[0] for several in rows], np.int64)
    found = looked_at(config, own, compute, source, firsts, world)
    for part in world.gather(dict(said)):
        said |= part
    told = [(clean(texts[row][1]), said[row]) for row in sorted(said)]
    broken = [f"{name} ({why})" for name, why in found.broken.items()]
    return {
        "config": config.model_dump(mode="json"),
        "answers": answer_score(told, listed),
        "broken": tuple(broken),
    }


def read_answers(path: str) -> list[str]:
    """The answers in a text file, one a line, or in a JSON list.

    Raises:
        UserError: there are none.
    """
    place = local_path(path, "the list of answers")
    try:
        text = Path(place).read_text("utf-8")
        told = json.loads(text) if place.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"questions.answers={path} cannot be read: {error}") from error
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        raise UserError(f"questions.answers={path} holds no list of texts")
    found = [one for one in told if one.strip()]
    if not found:
        raise UserError(f"questions.answers={path} holds no answer")
    return found
