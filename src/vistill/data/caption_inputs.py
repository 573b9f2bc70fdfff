"""What a batch holds of captions, or of questions and answers."""

import numpy as np

from vistill.data.inputs import text_key
from vistill.data.source import Source
from vistill.text_cleanup import clean
from vistill.tokenizing import Tokenizer


class CaptionInputs:
    """One caption of every sample, drawn by its row's generator (a `vistill.data.inputs.Inputs`).

    Args:
        tokenizer: cuts it into tokens.
        joined: all of them instead, as one text.
    """

    def __init__(self, tokenizer: Tokenizer, *, joined: bool = False) -> None:
        self.tokenizer, self.joined = tokenizer, joined

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`text` int64 `[L]`, `text_mask` bool `[L]`, and `sentence`, equal for equal words."""
        assert source.captions is not None
        captions = source.captions[sample]
        if self.joined:
            sentence = clean(" ".join(captions))
        else:
            sentence = clean(captions[int(rng.integers(len(captions)))] if len(captions) else "")
        tokens = self.tokenizer(sentence)
        key = text_key(sentence)
        return {"text": tokens.ids, "text_mask": tokens.mask, "sentence": key}


class QuestionInputs:
    """The question and the answer of every sample (a `vistill.data.inputs.Inputs`).

    Args:
        question, answer: cut each.
    """

    def __init__(self, question: Tokenizer, answer: Tokenizer) -> None:
        self.question, self.answer = question, answer

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`text` int64 `[L]`, `text_mask` bool `[L]`, and `answer` int64 `[A]`."""
        assert source.captions is not None
        question, answer = source.captions[sample]
        asked = self.question(clean(question))
        return {"text": asked.ids, "text_mask": asked.mask,
                "answer": self.answer(clean(answer)).ids}  # fmt: skip
