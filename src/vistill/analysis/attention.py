"""What attention maps are like: how far heads look, how alike they are, and whether the map is one
of offsets (diagonals) or of places (columns) (FD, section 4; spec fd 7.1 to 7.3).

Sums over pictures are kept and no map, so that any number of pictures takes the same memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Places(NamedTuple):
    """Where the tokens of a map lie.

    Attributes:
        slots: of time; 1 for pictures.
        grid: rows and columns, of a window where attention stays within windows.
        pitch: pixels from a patch to the next, down and across.
        prefix: tokens in front that lie nowhere.
    """

    slots: int
    grid: tuple[int, int]
    pitch: tuple[float, float]
    prefix: int

    def offsets(self) -> Float[Tensor, "3 n n"]:
        """From query (row) to key: time slots, rows and columns."""
        where = torch.cartesian_prod(*(torch.arange(n) for n in (self.slots, *self.grid)))
        where = where.reshape(-1, 3).double()
        return (where[None] - where[:, None]).permute(2, 0, 1)


@dataclass(frozen=True)
class AttentionFigures:
    """One layer, over all pictures.

    Attributes:
        distance: mean distance in pixels between a query and what it attends to, per head.
        duration: the same in time slots; of pictures 0.
        similarity: mean cosine between each two heads' maps of a picture.
        entropy: nats of a row, per head.
        average: mean map over pictures and heads.
        diagonal: share of the mean map's variation that the offset between query and key explains.
        column: share that the key alone explains.
        identity: what a token pays to its own place, mean.
    """

    distance: Float[Tensor, " m"]
    duration: Float[Tensor, " m"]
    similarity: Float[Tensor, "m m"]
    entropy: Float[Tensor, " m"]
    average: Float[Tensor, "n n"]
    diagonal: float
    column: float
    identity: float

    @property
    def spread(self) -> float:
        """Largest less smallest distance of its heads."""
        return float(self.distance.max() - self.distance.min())

    @property
    def alike(self) -> float:
        """Mean similarity of two heads; 1 where there is but one."""
        heads = len(self.similarity)
        if heads == 1:
            return 1.0
        others = self.similarity.sum() - self.similarity.diagonal().sum()
        return float(others / (heads * (heads - 1)))


class AttentionStatistics:
    """Sums over the maps of one layer.

    Args:
        places: of its tokens.
        renormalize: bring each query's attention to patches to a sum of 1 again, without what the
            prefix gets of it.
        rows: compare heads query by query, instead of whole maps.
    """

    def __init__(self, places: Places, *, renormalize: bool = True, rows: bool = False) -> None:
        self.places, self.renormalize, self.rows = places, renormalize, rows
        offsets = places.offsets()
        scale = torch.tensor(places.pitch)[:, None, None].double()
        self._space = (offsets[1:] * scale).square().sum(0).sqrt()
        self._time = offsets[0].abs()
        self._maps = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, maps: Float[Tensor, "b m t t"]) -> None:
        """See maps after the softmax, rows of which are queries."""
        prefix = self.places.prefix
        patches = maps[:, :, prefix:, prefix:].double()
        if self.renormalize:
            patches = patches / patches.sum(dim=-1, keepdim=True)
        if self._space.device != maps.device:
            self._space, self._time = self._space.to(maps.device), self._time.to(maps.device)
        self._maps += len(maps)
        self._sum("distance", (patches * self._space).sum(-1).mean(-1))
        self._sum("duration", (patches * self._time).sum(-1).mean(-1))
        self._sum("entropy", torch.special.entr(patches).sum(-1).mean(-1))
        self._sum("average", patches.mean(1))
        self._sum("similarity", self._similarity(patches))

    def _similarity(self, patches: Float[Tensor, "b m n n"]) -> Float[Tensor, "b m m"]:
        if self.rows:
            rows = F.normalize(patches, dim=-1).transpose(1, 2)
            return (rows @ rows.mT).mean(dim=1)
        flat = F.normalize(patches.flatten(2), dim=-1)
        return flat @ flat.mT

    def _sum(self, name: str, values: Tensor) -> None:
        found = values.sum(dim=0)
        self._sums[name] = found if name not in self._sums else self._sums[name] + found

    def figures(self) -> AttentionFigures:
        """What was seen so far."""
        mean = {name: (total / self._maps).cpu() for name, total in self._sums.items()}
        average = mean["average"]
        return AttentionFigures(
            mean["distance"],
            mean["duration"],
            mean["similarity"],
            mean["entropy"],
            average,
            explained(average, by_offset(average, self.places)),
            explained(average, average.mean(dim=0).expand_as(average)),
            float(average.diagonal().mean()),
        )


def by_offset(average: Float[Tensor, "n n"], places: Places) -> Float[Tensor, "n n"]:
    """The map whose entries are means over all pairs of the same offset."""
    offsets = places.offsets().long()
    sizes = (places.slots, *places.grid)
    number = torch.zeros_like(offsets[0])
    for offset, size in zip(offsets, sizes, strict=True):
        number = number * (2 * size - 1) + offset + size - 1
    flat, count = number.flatten(), int(number.max()) + 1
    zeros = torch.zeros(count, dtype=average.dtype)
    total = zeros.index_add(0, flat, average.flatten())
    pairs = zeros.index_add(0, flat, torch.ones_like(average.flatten()))
    return (total / pairs.clamp(min=1))[number]


def explained(average: Float[Tensor, "n n"], model: Float[Tensor, "n n"]) -> float:
    """Share of the variation of a map that a simpler one explains; 1 of a map without any."""
    whole = (average - average.mean()).square().sum()
    if not whole:
        return 1.0
    return float(1 - (average - model).square().sum() / whole)


def layer_table(layers: Sequence[AttentionFigures]) -> list[dict[str, float]]:
    """A row a layer."""
    return [
        {
            "distance": float(one.distance.mean()),
            "spread": one.spread,
            "duration": float(one.duration.mean()),
            "similarity": one.alike,
            "entropy": float(one.entropy.mean()),
            "diagonal": one.diagonal,
            "column": one.column,
            "identity": one.identity,
        }
        for one in layers
    ]
