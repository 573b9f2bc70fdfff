"""The tokenizer of a run that reads captions."""

from pathlib import Path
from typing import Any

from vistill.config.section import MethodSection
from vistill.errors import UserError
from vistill.losses.video_text import Words
from vistill.models.export import find_export
from vistill.models.joint_umt import umt_options
from vistill.models.text.saved import TOKENIZER
from vistill.tokenizing import Tokenizer


def reads_text(method: MethodSection | None) -> bool:
    """Whether a method asks for captions."""
    return method is not None and "text" in method.reads_inputs


def tokenizer_of(method: Any) -> Tokenizer:
    """What cuts the captions of a method whose section has a part `text`.

    Raises:
        UserError: it names none, or one that cannot be had.
    """
    name = method.text.tokenizer or method.text.model
    if name is not None and name.startswith("run:"):
        name = str(find_export(Path(name.removeprefix("run:"))) / TOKENIZER)
    elif name is not None and name.startswith("file:"):
        _, name, _ = umt_options(name.removeprefix("file:"))
    if name is None:
        raise UserError(
            "method.text.tokenizer: say what cuts captions into tokens: a vocab.txt, a "
            "tokenizer.json, a folder, or a name of the hub such as bert-base-uncased"
        )
    return Tokenizer(name, method.text.max_length)


def asks(method: Any) -> bool:
    """Whether a method that reads text reads questions and answers, and no captions."""
    return "answer" in method.reads_inputs


def joins_captions(method: Any) -> bool:
    """Whether all captions of a sample are one text."""
    return method.captions == "joined"


def answers_tokenizer(method: Any, tokenizer: Tokenizer) -> Tokenizer:
    """What cuts answers, as the questions are."""
    return Tokenizer(tokenizer.name, method.answer_length)


def words_of(tokenizer: Tokenizer) -> Words:
    """The special tokens of its vocabulary."""
    pad, cls, mask = (tokenizer.special(token) for token in ("[PAD]", "[CLS]", "[MASK]"))
    return Words(tokenizer.size, pad, cls, mask)
