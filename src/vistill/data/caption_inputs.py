"""What a batch holds of captions."""

import numpy as np

from vistill.data.inputs import text_key
from vistill.data.source import Source
from vistill.text_cleanup import clean
from vistill.tokenizing import Tokenizer


class CaptionInputs:
    """One caption of every sample, drawn by its row's generator (a `vistill.data.inputs.Inputs`).

    Args:
        tokenizer: cuts it into tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`text` int64 `[L]`, `text_mask` bool `[L]`, and `sentence`, equal for equal words."""
        assert source.captions is not None
        captions = source.captions[sample]
        sentence = clean(captions[int(rng.integers(len(captions)))] if len(captions) else "")
        tokens = self.tokenizer(sentence)
        key = text_key(sentence)
        return {"text": tokens.ids, "text_mask": tokens.mask, "sentence": key}
