"""From samples to batches: what is read of a picture or clip, and the account of broken ones."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vistill.batch import Batch
from vistill.data.broken import BrokenFiles, BrokenImage
from vistill.data.cache import CachedView, Found, PartCache, TeacherCache, Views
from vistill.data.decode import EndMissing, decode_image
from vistill.data.inputs import Inputs, inputs_rng, stacked
from vistill.data.loader import TIMEOUT, Loader, Request
from vistill.data.processes import beat
from vistill.data.source import Source
from vistill.data.transforms import Transform
from vistill.data.video.device import DeviceCrop, Shipment
from vistill.errors import UserError
from vistill.random import copy_seed, replacement, sample_seeds

MAX_WORKERS = 8
REPLACEMENTS = 32

Decoder = Callable[[Source, int, np.random.Generator], UInt8[Tensor, "3 *size"]]
"""From a sample of a source to a picture `[3, h, w]` or the frames of a clip `[3, t, h, w]`."""


def decode_picture(source: Source, sample: int, rng: np.random.Generator) -> UInt8[Tensor, "3 h w"]:
    """The decoder of sources of pictures."""
    return decode_image(source.read(sample), source.decoding.value_range)


class SampleReader:
    """Answers a Request with tensors and the broken pictures it met (a `loader.Reader`).

    Args:
        source: where the pictures are.
        transform: from what is decoded to pixels of one size, or to a list of views of it; or
            crops that the device is to make.
        seed: the run's seed.
        pool: indices from which broken samples are replaced; None leaves them out instead.
        cache: what the teacher said about fixed views.
        decode: what is read of a sample.
        repeats: copies of every sample, decoded once, which lie side by side in the batch; each has
            its own seed and its own random view.
        inputs: makes what a batch holds beside pixels; None: nothing.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | DeviceCrop,
        seed: int,
        pool: Int[np.ndarray, " n"] | None = None,
        cache: TeacherCache | PartCache | None = None,
        decode: Decoder = decode_picture,
        repeats: int = 1,
        inputs: Inputs | None = None,
    ) -> None:
        self.cache, self.decode, self.repeats, self.inputs = cache, decode, repeats, inputs
        self.source = source
        self.transform = transform
        self.seed = seed
        self.pool = pool

    def name(self, sample: int) -> str:
        """What a sample is called."""
        return self.source.sample_name(sample)

    def __call__(self, request: Request) -> dict[str, Any]:
        broken: list[tuple[str, str]] = []
        mended: list[str] = []
        seeds = sample_seeds(self.seed, request.epoch, request.samples)
        rows: list[UInt8[Tensor, "*size 3"]] = []
        row_seeds: list[int] = []
        view_seeds: list[int] = []
        view_numbers: list[int] = []
        ids: list[int] = []
        inputs: list[Mapping[str, np.ndarray]] = []
        shipped: list[UInt8[Tensor, "3 t h w"]] = []
        crops: list[list[int]] = []
        read = 0
        for sample, seed in zip(request.samples.tolist(), seeds.tolist(), strict=True):
            for attempt in range(REPLACEMENTS if self.pool is not None else 1):
                if attempt and self.pool is not None:
                    sample = int(self.pool[replacement(seed, attempt, len(self.pool))])
                own, first = seed, 0
                if self.cache is not None and request.view is not None:
                    leader = self.cache.leader(request.view)
                    own = int(self.cache.seeds(leader, np.array([sample]))[0])
                    first = request.view - leader
                rng = _generator(own)
                beat(sample)
                try:
                    decoded = self.decode(self.source, sample, rng)
                except EndMissing as error:
                    name = self.source.sample_name(sample)
                    if not self.source.decoding.allow_truncated:
                        broken.append((name, str(error)))
                        continue
                    mended.append(name)
                    decoded = error.pixels
                except BrokenImage as error:
                    broken.append((self.source.sample_name(sample), str(error)))
                    continue
                if isinstance(self.transform, DeviceCrop):
                    shipped.append(decoded := self.transform.bounded(decoded))
                for copy in range(first, first + self.repeats):
                    rng = _generator(copy_seed(own, copy)) if copy else rng
                    if isinstance(self.transform, DeviceCrop):
                        views = [decoded]
                        crops.append([len(shipped) - 1, *self.transform.draw(decoded, rng)])
                    else:
                        views = _views(self.transform(decoded, rng))
                    if self.inputs is not None:
                        own_rng = inputs_rng(copy_seed(seed, copy))
                        inputs += [self.inputs(self.source, sample, own_rng)] * len(views)
                    for view in views:
                        # Memory with channels last stacks by plain copies.
                        rows.append(view.movedim(0, -1))
                        row_seeds.append(copy_seed(seed, copy))
                        view_seeds.append(copy_seed(own, copy))
                        view_numbers.append((request.view or 0) + copy - first)
                        ids.append(sample)
                read += 1
                break
        answer: dict[str, Any] = {
            "whole": read == len(seeds),
            "broken": broken,
            "mended": mended,
        }
        if rows:
            if isinstance(self.transform, DeviceCrop):
                answer["shipment"] = self.transform.pack(shipped, crops)
            else:
                answer["pixels"] = torch.stack(rows).movedim(-1, 1)
            answer["seeds"] = torch.tensor(row_seeds)
            answer["ids"] = torch.tensor(ids)
            if inputs:
                answer["inputs"] = stacked(inputs)
            if self.source.labels is not None:
                answer["labels"] = torch.from_numpy(self.source.labels[ids])
            if self.cache is not None and request.view is not None:
                numbers = np.array(view_numbers)
                found = self.cache.read(numbers, np.array(ids))
                answer["cached"] = (numbers, torch.tensor(view_seeds), found)
        return answer


class Keeps(Protocol):
    """What says, of records that a loader has found, what a batch carries of them."""

    def for_batch(
        self, views: Views, ids: Int[Tensor, " b"], seeds: Int[Tensor, " b"], found: Found
    ) -> CachedView:
        """See `TeacherCache.for_batch`."""


def read_batches(
    answers: Generator[dict[str, Any]],
    broken: BrokenFiles,
    *,
    whole: bool,
    cache: Keeps | None = None,
    cut: Callable[[Shipment], UInt8[Tensor, "b 3 t size size"]] | None = None,
) -> Iterator[Batch]:
    """Turn answers into batches and keep account of broken pictures.

    Raises:
        UserError: when too many pictures are broken, or when `whole` batches cannot be filled.
        Failure, Interrupted: see `vistill.data.loader.Loader`.
    """
    with closing(answers):
        for answer in answers:
            broken.add(answer["broken"])
            broken.add_mended(answer["mended"])
            batch = {key: answer[key] for key in answer if key not in ("whole", "broken", "mended")}
            if cache is not None and "cached" in batch:
                views, seeds, found = batch["cached"]
                batch["cached"] = cache.for_batch(views, batch["ids"], seeds, found)
            if cut is not None and "shipment" in batch:
                batch["pixels"] = cut(batch.pop("shipment"))
            if batch and (answer["whole"] or not whole):
                yield Batch(**batch)
            elif whole:
                raise UserError(
                    f"{REPLACEMENTS} {broken.noun}s in a row cannot be read: {broken.listed()}"
                )


def eval_batches(
    source: Source,
    indices: Int[np.ndarray, " n"],
    transform: Transform | DeviceCrop,
    *,
    batch_size: int,
    workers: int,
    broken: BrokenFiles,
    cache: TeacherCache | PartCache | None = None,
    view: int | None = None,
    decode: Decoder = decode_picture,
    inputs: Inputs | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[Batch]:
    """Every sample once and in order; broken ones are left out and noted in `broken`.

    A transform that makes several views of a sample gives as many rows side by side.
    Seeds depend on the sample alone, so that a method's loss can be compared between epochs. With a
    cache it is this view of every sample. Reading one sample may take `timeout` seconds.
    """
    indices = np.asarray(indices, dtype=np.int64)
    starts = range(0, len(indices), batch_size)
    requests = [Request(0, indices[start : start + batch_size], view) for start in starts]
    reader = SampleReader(source, transform, seed=0, cache=cache, decode=decode, inputs=inputs)
    with closing(Loader(reader, min(workers, len(requests)), timeout)) as loader:
        cut = transform.cut if isinstance(transform, DeviceCrop) else None
        yield from read_batches(loader.answers(requests), broken, whole=False, cache=cache, cut=cut)


def default_workers(world_size: int = 1) -> int:
    """Loader processes for each of `world_size` ranks on this machine: a core each, at most 8."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min(MAX_WORKERS, cores // world_size))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed & (2**64 - 1)))


def _views(made: Tensor | list[Tensor]) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else made
