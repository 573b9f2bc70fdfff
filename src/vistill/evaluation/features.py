"""Run a model once over samples in their test views: features for probes, logits for tests."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.batch import Batch
from vistill.data import BrokenFiles, Source, eval_batches
from vistill.errors import UserError
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.views import merge_views
from vistill.models.backbone import Backbone
from vistill.training.distributed import World
from vistill.training.progress import tell

T = TypeVar("T")


class Features(NamedTuple):
    """One row per readable sample, on the CPU: in the order asked for, or of several views by
    position in the source.

    Attributes:
        features: features, logits or probabilities.
        labels: the source's class indices, -1 where unknown.
        broken: unreadable pictures and the reason, by name.
        ids: positions in the source.
    """

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    broken: dict[str, str]
    ids: Int[Tensor, " n"]


def pooling(backbone: Backbone, pool: Literal["avg", "cls"]) -> Callable[[Batch], Tensor]:
    """The feature that kNN and the linear probe look at."""
    return lambda batch: backbone.pooled(backbone.normalization(batch.unit_pixels()), pool)


@torch.no_grad()
def collect(
    module: nn.Module,
    compute: Callable[[Batch], Tensor],
    source: Source,
    indices: np.ndarray,
    *,
    inputs: Inputs,
    batch_size: int,
    workers: int,
    device: torch.device | str,
    progress: str | None,
    broken: BrokenFiles | None = None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    world: World | None = None,
) -> Features:
    """`compute` of every batch, with `module` in eval mode on `device`.

    Ranks share the batches, which are those of one rank, so that the numbers are too.

    Args:
        module: moved to `device`; its training mode is put back afterwards.
        compute: features, or logits where a sample has several views, whose probabilities are
            averaged.
        source: of the samples.
        indices: which of them; every one is read once.
        inputs: what is seen of a sample.
        batch_size: views per forward pass, though at least those of one sample.
        workers: loader processes.
        device: where to compute.
        progress: what to show meanwhile; None for nothing.
        broken: the account of unreadable samples to continue, so that each is logged once.
        interpolation: how pictures are resized.
        world: the ranks that share the samples, all of which get all rows; None: this one alone.

    Raises:
        UserError: no sample can be read.
    """
    noun = source.media.noun
    broken = broken or BrokenFiles(len(indices), max_share=1.0, noun=noun)
    transform, decode = inputs.testing(interpolation)
    samples = max(1, batch_size // inputs.views)
    own = indices if world is None else shared_out(indices, samples, world)
    batches = eval_batches(
        source,
        own,
        transform,
        batch_size=samples,
        workers=workers,
        broken=broken,
        decode=decode,
        timeout=inputs.timeout,
    )
    was_training = module.training
    module.eval().to(device)
    rows, ids = [], []
    try:
        for batch in shown(batches, -(-len(own) // samples), progress):
            rows.append(compute(batch.to(device)).float().cpu())
            ids.append(batch.ids)
    finally:
        module.train(was_training)
    if world is not None and world.size > 1:
        rows, ids = _of_all(rows, ids, broken, world)
    if not rows:
        raise UserError(f"none of the {len(indices)} {noun}s of {source.name} can be read")
    features, found = torch.cat(rows), torch.cat(ids)
    if inputs.clips is not None and inputs.views > 1:
        view = torch.arange(inputs.views).repeat(len(found) // inputs.views)
        crops = inputs.clips.crops
        found, features = merge_views(features, found, view // crops, view % crops)
    known = torch.full_like(found, -1)
    if source.labels is not None:
        known = torch.from_numpy(source.labels)[found]
    return Features(features, known, dict(broken.names), found)


def shared_out(indices: np.ndarray, at_once: int, world: World) -> np.ndarray:
    """This rank's part of `indices`: whole batches of `at_once`, in the order of ranks."""
    batches = -(-len(indices) // at_once)
    first, last = (batches * rank // world.size for rank in (world.rank, world.rank + 1))
    return indices[first * at_once : last * at_once]


def _of_all(
    rows: list[Tensor], ids: list[Tensor], broken: BrokenFiles, world: World
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows and positions that all ranks have found, in their order, and a common account."""
    own = (torch.cat(rows).numpy(), torch.cat(ids).numpy()) if rows else None
    there = [pair for pair in of_all_ranks(own, broken, world) if pair is not None]
    return [torch.from_numpy(a) for a, _ in there], [torch.from_numpy(b) for _, b in there]


def of_all_ranks(own: T, broken: BrokenFiles, world: World) -> list[T]:
    """What every rank has found, in their order; `broken` becomes the account of all."""
    found = world.gather((own, broken.names))
    for _, names in found:
        broken.names.update(names)
    return [part for part, _ in found]


def shown(items: Iterable[T], total: int, text: str | None) -> Iterator[T]:
    """Pass `items` on, under a bar in a terminal, elsewhere after a line; silently without text."""
    if text is not None and sys.stderr.isatty():
        # Imported here: it takes a third of a second, and only a terminal needs it.
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True, highlight=False)
        yield from track(items, description=text, total=total, console=console, transient=True)
        return
    if text is not None:
        tell(text)
    yield from items
