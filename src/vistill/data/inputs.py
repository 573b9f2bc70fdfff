"""What a method's data holds beside pixels: made of a sample in loader processes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from vistill.data.source import Source
from vistill.errors import UserError

_STREAM = 0x1B9075


def text_key(text: str) -> Shaped[np.ndarray, ""]:
    """An int64 that tells texts apart in a batch: equal for equal ones."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.array(int.from_bytes(digest, signed=True))


class Inputs(Protocol):
    """Makes the rows of `Batch.inputs`, one call per row of pixels.

    It is pickled into loader processes, and has to return the same names, shapes and types for
    every sample.
    """

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> Mapping[str, Shaped[np.ndarray, "*_"]]:
        """The inputs of a sample, by name.

        Args:
            source: of the sample; of a mixture the one that the sample belongs to.
            sample: its position there. Where a broken sample was replaced, the one in its place.
            rng: this row's own; nothing else draws from it.
        """
        ...


class Items:
    """Which sample a row shows: `item`, equal for two rows of one sample alone, and `source`.

    Args:
        source_name: of the source in a mixture; empty for the only one.
        number: of the source in a mixture.
    """

    def __init__(self, source_name: str = "", number: int = 0) -> None:
        self.source_name, self.number = source_name, number

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> dict[str, Shaped[np.ndarray, ""]]:
        item = text_key(f"{self.source_name}/{sample}")
        return {"item": item, "source": np.array(self.number)}


class Joined:
    """The inputs of several makers, which draw one after the other."""

    def __init__(self, *makers: Inputs) -> None:
        self.makers = makers

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> dict[str, Shaped[np.ndarray, "*_"]]:
        made: dict[str, np.ndarray] = {}
        for maker in self.makers:
            made |= maker(source, sample, rng)
        return made


def inputs_rng(seed: int) -> np.random.Generator:
    """What the inputs of a row draw from, by the row's `Batch.seeds`: apart from its crop."""
    return np.random.default_rng([seed & (2**64 - 1), _STREAM])


def stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Shaped[Tensor, "b *_"]]:
    """Inputs of single rows as those of a batch.

    Raises:
        UserError: the rows differ in names, shapes or types.
    """
    found, first = {}, rows[0]
    for row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"the inputs of a sample are a mapping, not a {type(row).__name__}")
        if row.keys() != first.keys():
            raise UserError(
                f"the inputs of two samples have different names: {', '.join(first) or 'none'}, "
                f"and {', '.join(row) or 'none'}"
            )
    for name in first:
        values = [np.asarray(row[name]) for row in rows]
        kinds = sorted({f"{value.dtype} {list(value.shape)}" for value in values})
        if len(kinds) > 1:
            raise UserError(
                f"the inputs '{name}' of samples cannot be stacked: {' and '.join(kinds[:2])}; "
                "fill them up to one size"
            )
        if values[0].dtype.kind not in "biuf":
            raise UserError(f"the inputs '{name}' of samples are {values[0].dtype}, no numbers")
        found[name] = torch.from_numpy(np.stack(values))
    return found
