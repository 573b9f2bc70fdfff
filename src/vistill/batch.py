"""What flows from the data to a method: one batch of samples, and the losses that come back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

Features = Tensor | Mapping[str, Tensor]
"""What a teacher says about a batch: one tensor, or several by name, first dimension B."""


class CachedFeatures(Protocol):
    """The teacher's outputs for a view that comes again (`vistill.data.cache`).

    Attributes:
        seeds: int64 `[B]`; the view derives from these instead of `Batch.seeds`.
    """

    seeds: Int[Tensor, " b"]

    def features(self, compute: Callable[[Int[Tensor, " k"] | None], Features]) -> Features:
        """What is cached; for rows that are not (None: all), what `compute` finds."""

    def to(self, device: torch.device | str) -> "CachedFeatures":
        """Move every tensor, without waiting for the copy."""

    def take(self, rows: Int[Tensor, " k"]) -> "CachedFeatures":
        """Some samples, to try something out: what is found is not stored."""


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        pixels: uint8 in 0..255, or floating point in [0, 1]; `[B, 3, H, W]`, for video
            `[B, 3, T, H, W]`.
        seeds: one int64 per sample, a function of run seed, epoch and sample only. Every random
            draw of a method derives from it, so that workers, ranks, accumulation and resuming
            cannot change a run (see `vistill.random`).
        ids: int64 `[B]`, the position of each sample in its source.
        labels: int64 `[B]` class indices (-1: unknown), or None.
        inputs: what a method's data holds beside pixels, by name, first dimension B (see
            `vistill.data.inputs`).
        cached: what a cache knows about the teacher's outputs for this view, or None.
    """

    pixels: UInt8[Tensor, "b 3 *size"] | Float[Tensor, "b 3 *size"]
    seeds: Int[Tensor, " b"]
    ids: Int[Tensor, " b"]
    labels: Int[Tensor, " b"] | None = None
    inputs: dict[str, Shaped[Tensor, "b *_"]] = field(default_factory=dict)
    cached: CachedFeatures | None = None

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor, without waiting for the copy."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            seeds=self.seeds.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            labels=move(self.labels),
            inputs={
                name: value.to(device, non_blocking=True) for name, value in self.inputs.items()
            },
            cached=None if self.cached is None else self.cached.to(device),
        )

    def take(self, rows: Int[Tensor, " k"]) -> "Batch":
        """Some of the samples, by their positions, which are on the batch's device."""
        return replace(
            self,
            pixels=self.pixels[rows],
            seeds=self.seeds[rows],
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            inputs={name: value[rows] for name, value in self.inputs.items()},
            cached=None if self.cached is None else self.cached.take(rows),
        )

    def first(self, count: int) -> "Batch":
        """The first `count` samples, or all of fewer."""
        return self.take(torch.arange(min(count, len(self)), device=self.pixels.device))

    @property
    def view_seeds(self) -> Int[Tensor, " b"]:
        """What the view that both sides share derives from."""
        return self.seeds if self.cached is None else self.cached.seeds

    def unit_pixels(self) -> Float[Tensor, "b 3 *size"]:
        """Pixels as floating point in [0, 1]."""
        return unit_pixels(self.pixels)


def unit_pixels(
    pixels: UInt8[Tensor, "b 3 *size"] | Float[Tensor, "b 3 *size"],
) -> Float[Tensor, "b 3 *size"]:
    """Pixels in 0..255 as floating point in [0, 1]; those that are it already stay."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


@dataclass
class Losses:
    """What a method returns: the scalar to minimise and every named term it is made of.

    `terms` hold detached scalar tensors; nobody reads them on the host inside a step. `watched` are
    further numbers to log, such as the length of features.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    watched: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
