"""How what a teacher said about one picture is written down: tensors to bytes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Protocol, cast

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from vistill.batch import Features
from vistill.data.rounding import ROUNDINGS

Precision = Literal["fp32", "bf16", "int8", "int4", "int32"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int32": torch.int32}


class Record(Protocol):
    """How one record is written."""

    @property
    def nbytes(self) -> int:
        """Bytes of a record."""

    @property
    def precision(self) -> str:
        """Of its numbers."""

    def encode(self, values: Any) -> UInt8[Tensor, "b nbytes"]:
        """Records as bytes, on the device of `values`."""

    def decode(self, raw: UInt8[Tensor, "b nbytes"]) -> Any:
        """The inverse of `encode`, up to rounding."""

    def described(self) -> Any:
        """Its shape, as the index of a cache keeps it."""


@dataclass(frozen=True)
class Layout:
    """One tensor.

    Args:
        shape: of a record: `[D]`, or tokens first, `[N, D]` or `[N, K, D]`.
        precision: `fp32`, `bf16`, `int8` or `int4` (of tokens, see `vistill.data.rounding`), or
            `int32` for whole numbers.
    """

    shape: tuple[int, ...]
    precision: Precision

    @property
    def _sizes(self) -> tuple[int, int]:
        """Tokens and channels."""
        return self.shape[0], prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of a record."""
        if self.precision in ROUNDINGS:
            return ROUNDINGS[self.precision].nbytes(*self._sizes)
        return prod(self.shape) * _DTYPES[self.precision].itemsize

    def encode(self, values: Shaped[Tensor, "b *shape"]) -> UInt8[Tensor, "b nbytes"]:
        """Records as bytes, on the device of `values`."""
        if self.precision in ROUNDINGS:
            return ROUNDINGS[self.precision].encode(values.float().flatten(2))
        return values.to(_DTYPES[self.precision]).flatten(1).contiguous().view(torch.uint8)

    def decode(self, raw: UInt8[Tensor, "b nbytes"]) -> Shaped[Tensor, "b *shape"]:
        """The inverse of `encode`, up to rounding: fp32, or int64 of whole numbers."""
        if self.precision in ROUNDINGS:
            values = ROUNDINGS[self.precision].decode(raw, *self._sizes)
            return values.unflatten(2, self.shape[1:])
        values = raw.contiguous().view(_DTYPES[self.precision]).unflatten(1, self.shape)
        return values.long() if self.precision == "int32" else values.float()

    def described(self) -> list[int]:
        """Its shape."""
        return list(self.shape)


@dataclass(frozen=True)
class Parts:
    """Several tensors by name, one after the other."""

    layouts: Mapping[str, Layout]

    @property
    def precision(self) -> str:
        """That of what is no whole number."""
        return next(x.precision for x in self.layouts.values() if x.precision != "int32")

    @property
    def nbytes(self) -> int:
        """Bytes of a record."""
        return sum(layout.nbytes for layout in self.layouts.values())

    def encode(self, values: Mapping[str, Tensor]) -> UInt8[Tensor, "b nbytes"]:
        """Records as bytes, on the device of `values`."""
        return torch.cat([one.encode(values[name]) for name, one in self.layouts.items()], dim=1)

    def decode(self, raw: UInt8[Tensor, "b nbytes"]) -> dict[str, Tensor]:
        """The inverse of `encode`, up to rounding."""
        sizes = [layout.nbytes for layout in self.layouts.values()]
        parts = zip(self.layouts.items(), raw.split(sizes, dim=1), strict=True)
        return {name: layout.decode(part) for (name, layout), part in parts}

    def described(self) -> dict[str, list[int]]:
        """Their shapes."""
        return {name: layout.described() for name, layout in self.layouts.items()}


def record_of(values: Features, precision: Precision | None) -> Record:
    """How what a teacher says is written.

    Args:
        values: of any sample `[B, ...]`; whole numbers are always kept as they are.
        precision: None: `fp32` for one vector, `bf16` for tokens.

    Raises:
        ValueError: `int8` or `int4` of a vector.
    """
    if not isinstance(values, Tensor):
        parts = {name: record_of(value, precision) for name, value in values.items()}
        return Parts(cast("dict[str, Layout]", parts))
    shape = tuple(values.shape[1:])
    if not values.is_floating_point():
        return Layout(shape, "int32")
    if len(shape) == 1 and precision in ROUNDINGS:
        raise ValueError(f"{precision} scales the channels of tokens")
    return Layout(shape, precision or ("fp32" if len(shape) == 1 else "bf16"))
