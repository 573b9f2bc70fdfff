"""Tokenizers by name or file, by the tokenizers library alone, which loads nothing else."""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vistill.errors import UserError, first_line
from vistill.files import near_path
from vistill.text_cleanup import clean


class Tokens(NamedTuple):
    """A sentence, filled up to its full length.

    Attributes:
        ids: int64 `[L]`.
        mask: bool `[L]`, True where there is a token.
    """

    ids: Int[np.ndarray, " l"]
    mask: Bool[np.ndarray, " l"]


class Tokenizer:
    """BERT's kind of tokenizer, which puts [CLS] in front and [SEP] behind.

    Args:
        name: of the hub (of what was downloaded before, where there is no network), a folder, a
            `tokenizer.json`, or a `vocab.txt` of BERT's words in small letters.
        length: tokens of every sentence, these two counted in.

    Raises:
        UserError: there is no such tokenizer, or it has no such tokens.
    """

    def __init__(self, name: str, length: int) -> None:
        if find_spec("tokenizers") is None:
            raise UserError("text needs an extra: pip install 'vistill[teachers]'")
        self.name, self.length = name, length
        tool = _load(name)
        self._text = tool.to_str()
        missing = [token for token in _SPECIAL if tool.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer {name} has no token {missing[0]}; a tokenizer of BERT's kind has "
                f"{', '.join(_SPECIAL)}"
            )

    @cached_property
    def _tool(self) -> Any:
        from tokenizers import Tokenizer as Tool

        tool = Tool.from_str(self._text)
        tool.enable_truncation(self.length)
        tool.enable_padding(pad_id=tool.token_to_id("[PAD]"), pad_token="[PAD]", length=self.length)
        return tool

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_tool"}

    @property
    def json(self) -> str:
        """The text of its `tokenizer.json`."""
        return self._text

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return self._tool.get_vocab_size()

    def special(self, token: str) -> int:
        """Id of `[PAD]`, `[CLS]`, `[SEP]`, `[MASK]` or `[UNK]`."""
        return self._tool.token_to_id(token)

    def __call__(self, sentence: str) -> Tokens:
        found = self._tool.encode(sentence)
        ids = np.array(found.ids, dtype=np.int64)
        return Tokens(ids, np.array(found.attention_mask, dtype=bool))

    def cleaned(self, sentences: Sequence[str]) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids and mask of sentences, cleaned as captions are."""
        found = self._tool.encode_batch([clean(sentence) for sentence in sentences])
        mask = torch.tensor([one.attention_mask for one in found]).bool()
        return torch.tensor([one.ids for one in found]), mask


_SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")


def _load(name: str) -> Any:
    from tokenizers import Tokenizer as Tool

    path = Path(name).expanduser()
    if path.is_dir():
        found = [path / file for file in ("tokenizer.json", "vocab.txt") if (path / file).is_file()]
        if not found:
            raise UserError(f"the folder {name} holds neither tokenizer.json nor vocab.txt")
        path = found[0]
    if path.is_file():
        try:
            return _of_words(path) if path.suffix == ".txt" else Tool.from_file(str(path))
        except Exception as error:  # the library raises the bare class
            raise UserError(f"the tokenizer {name} cannot be read: {first_line(error)}") from error
    if path.suffix in (".txt", ".json") or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"there is no tokenizer {name}{near_path(path)}")
    try:
        return Tool.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"the tokenizer {name} is no file and could not be had from the hub "
            f"({first_line(error)}); name a folder, a tokenizer.json or a vocab.txt"
        ) from error


def _of_words(path: Path) -> Any:
    """BERT's uncased tokenizer of a list of words."""
    from tokenizers import implementations

    kind: Any = implementations
    return kind.BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer
