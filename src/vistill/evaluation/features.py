"""Run a model once over pictures in their test view: features for probes, logits for tests."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from vistill.batch import Batch
from vistill.data import BrokenFiles, EvalTransform, Source, eval_batches
from vistill.errors import UserError
from vistill.models.backbone import Backbone

T = TypeVar("T")


class Features(NamedTuple):
    """One row per readable picture, in the order asked for, on the CPU.

    Attributes:
        features: features or logits.
        labels: the source's class indices, -1 where unknown.
        broken: unreadable pictures and the reason, by name.
        ids: positions in the source.
    """

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    broken: dict[str, str]
    ids: Int[Tensor, " n"]


def extract_features(
    backbone: Backbone,
    source: Source,
    indices: np.ndarray,
    *,
    image_size: int,
    pool: Literal["avg", "cls"] = "avg",
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
    broken: BrokenFiles | None = None,
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"], dict[str, str]]:
    """Features, labels and unreadable pictures (see `Features`).

    Features are pooled from the last block, in fp32 and eval mode, without gradients.

    Args:
        backbone: moved to `device`; its training mode is put back afterwards.
        source: of the pictures.
        indices: which pictures; every one is read once.
        image_size: side of the centre crop.
        pool: mean of the patch tokens or the class token, after the final norm.
        batch_size: pictures per forward pass.
        workers: loader processes.
        device: where to compute.
        broken: the account of unreadable pictures to continue, so that each is logged once.

    Raises:
        UserError: no picture can be read.
    """
    found = collect(
        backbone,
        pooling(backbone, pool),
        source,
        indices,
        image_size=image_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        progress=None,
        broken=broken,
    )
    return found.features, found.labels, found.broken


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
    image_size: int,
    batch_size: int,
    workers: int,
    device: torch.device | str,
    progress: str | None,
    broken: BrokenFiles | None = None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Features:
    """`compute` of every batch, with `module` in eval mode on `device`.

    The other arguments are those of `extract_features`; `progress` is what to show meanwhile, None
    for nothing, `interpolation` how pictures are resized.
    """
    broken = broken or BrokenFiles(len(indices), max_share=1.0)
    transform = EvalTransform(image_size, interpolation=interpolation)
    batches = eval_batches(
        source, indices, transform, batch_size=batch_size, workers=workers, broken=broken
    )
    was_training = module.training
    module.eval().to(device)
    rows, labels, ids = [], [], []
    try:
        for batch in shown(batches, -(-len(indices) // batch_size), progress):
            rows.append(compute(batch.to(device)).float().cpu())
            labels.append(torch.full_like(batch.ids, -1) if batch.labels is None else batch.labels)
            ids.append(batch.ids)
    finally:
        module.train(was_training)
    if not rows:
        raise UserError(f"none of the {len(indices)} pictures of {source.name} can be read")
    return Features(torch.cat(rows), torch.cat(labels), dict(broken.names), torch.cat(ids))


def shown(items: Iterable[T], total: int, text: str | None) -> Iterator[T]:
    """Pass `items` on, under a bar in a terminal, elsewhere after a line; silently without text."""
    if text is None:
        yield from items
        return
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from track(items, description=text, total=total, console=console, transient=True)
        return
    console.print(text, markup=False)
    yield from items
