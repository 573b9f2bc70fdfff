"""What people say of samples: any number of captions each, kept without an object per caption."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np

from vistill.data.names import PackedNames


class Captions(Sequence[Sequence[str]]):
    """The captions of every sample of a source.

    Args:
        told: of each sample in turn.
    """

    def __init__(self, told: Iterable[Sequence[str]]) -> None:
        ends = [0]

        def each() -> Iterator[str]:
            for several in told:
                yield from several
                ends.append(ends[-1] + len(several))

        self._texts = PackedNames(each())
        self._ends = np.array(ends)

    @classmethod
    def of(cls, text: np.ndarray, borders: np.ndarray, ends: np.ndarray) -> Self:
        """The captions whose `arrays` these are."""
        captions = cls(())
        captions._texts, captions._ends = PackedNames.of(text, borders), ends
        return captions

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Those of all texts, and int64 `[n + 1]` where the texts of each sample end."""
        return *self._texts.arrays, self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> Sequence[str]: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[Sequence[str]]: ...

    def __getitem__(self, i: int | slice) -> Sequence[Any]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return [self._texts[j] for j in range(self._ends[i], self._ends[i + 1])]
