"""The endless, resumable stream of training batches of one rank."""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from vistill.batch import Batch
from vistill.data.broken import BrokenFiles
from vistill.data.cache import TeacherCache
from vistill.data.inputs import Inputs
from vistill.data.loader import TIMEOUT, Loader, Request
from vistill.data.loading import (
    Decoder,
    SampleReader,
    decode_picture,
    read_batches,
)
from vistill.data.source import Source
from vistill.data.transforms import TrainTransform, Transform
from vistill.data.video.device import DeviceCrop
from vistill.data.video.transforms import VideoTrainTransform
from vistill.errors import UserError
from vistill.random import epoch_order


class StepRequests:
    """What to read in global steps `start` to `stop`: pure arithmetic, nothing read before.

    Every epoch is a fresh permutation of which the last `n % global_batch_size` pictures wait for
    another. A rank reads a contiguous part of the global batch, cut into micro-batches.
    """

    def __init__(
        self,
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        noun: str = "picture",
    ) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.rank = rank
        self.rank_batch_size = global_batch_size // world_size
        if global_batch_size % (world_size * micro_batch_size):
            raise UserError(
                f"train.global_batch_size={global_batch_size} cannot be shared by {world_size} "
                f"rank(s) in micro-batches of {micro_batch_size}"
            )
        self.steps_per_epoch = len(self.indices) // global_batch_size
        if self.steps_per_epoch < 1:
            raise UserError(
                f"train.global_batch_size={global_batch_size} is larger than the number of "
                f"training {noun}s, {len(self.indices)}; leave it out for a batch that fits"
            )
        self.start, self.stop = 0, 0
        self.views: int | None = None
        self.repeats = 1
        self._epoch, self._shuffled = -1, self.indices

    def __iter__(self) -> Iterator[Request]:
        for step in range(self.start, self.stop):
            yield from self.of_step(step)

    def show(self, cache: TeacherCache) -> None:
        """Ask for the fixed views of `cache`."""
        self.repeats, self.views = cache.repeats, cache.views // cache.repeats

    def of_step(self, step: int) -> Iterator[Request]:
        """This rank's micro-batches of one step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffled = self.indices[epoch_order(len(self.indices), self.seed, epoch)]
            self._epoch = epoch
        first = within * self.global_batch_size + self.rank * self.rank_batch_size
        for start in range(first, first + self.rank_batch_size, self.micro_batch_size):
            samples = self._shuffled[start : start + self.micro_batch_size]
            view = self.views and epoch % self.views * self.repeats
            yield Request(epoch, samples, view)


Watch = Callable[[TrainTransform | VideoTrainTransform], Transform]


def first_samples(
    reader: SampleReader,
    requests: StepRequests,
    count: int,
    watch: Watch,
    told: set[str],
    timeout: float,
) -> Iterator[Batch]:
    """The first samples of the first step, see `TrainStream.first`."""
    request, alone = next(requests.of_step(0)), copy.copy(reader)
    crop = reader.transform.transform if isinstance(reader.transform, DeviceCrop) else None
    alone.transform = watch(crop or reader.transform)  # type: ignore[arg-type]
    samples = request.samples[: max(1, count // reader.repeats)]
    broken = BrokenFiles(len(samples), max_share=1.0, told=told)
    answers = Loader(alone, 0, timeout).answers([request._replace(samples=samples)])
    yield from read_batches(answers, broken, whole=False, cache=reader.cache)


class TrainStream:
    """Micro-batches of training pictures, a function of seed and step alone.

    The number of workers, the number of ranks and the step at which a run was resumed change
    nothing. A broken picture is replaced by another one that its own seed picks.

    Args:
        source: where the pictures are.
        indices: which of them to train on.
        transform: from what is decoded to pixels of one size, in the loader or on a device.
        seed: the run's seed.
        global_batch_size: samples per optimiser step over all ranks, repeats not counted.
        micro_batch_size: samples per forward pass and rank, repeats not counted.
        rank, world_size: this process among all.
        workers: loader processes; 0 reads in this one.
        max_broken: share of unreadable samples above which the run stops.
        decode: what is read of a sample.
        repeats: copies of every sample, each with its own random view, side by side in the batch.
        timeout: seconds that reading one sample may take.

    Attributes:
        steps_per_epoch: optimiser steps in one pass over the pictures.
        accumulation: micro-batches per step and rank.
        broken: the pictures that were skipped so far.

    Raises:
        UserError: when the batch sizes do not fit the ranks or the number of pictures.
    """

    def __init__(
        self,
        source: Source,
        indices: Int[np.ndarray, " n"],
        transform: Transform | DeviceCrop,
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int,
        max_broken: float,
        decode: Decoder = decode_picture,
        repeats: int = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        noun = source.media.noun
        self._requests = StepRequests(
            indices,
            seed=seed,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
            noun=noun,
        )
        self._reader = SampleReader(
            source, transform, seed, self._requests.indices, decode=decode, repeats=repeats
        )
        self._loader = Loader(self._reader, workers, timeout)
        self.steps_per_epoch = self._requests.steps_per_epoch
        self.accumulation = self._requests.rank_batch_size // micro_batch_size
        self.broken = BrokenFiles(len(self._requests.indices), max_broken, noun=noun)

    def use(self, caches: Sequence[TeacherCache]) -> None:
        """Show the fixed views of a cache, from epoch to epoch as many as there are copies."""
        (cache,) = caches
        self._reader.cache = cache
        self._requests.show(cache)

    def use_inputs(self, inputs: Inputs | None) -> None:
        """Let `inputs` make what batches hold beside pixels, from the next call of `iterate` on."""
        self._reader.inputs = inputs

    def first(self, count: int, watch: Watch) -> list[Batch]:
        """The first samples of the first step, read by this process.

        Args:
            count: at most so many.
            watch: is given what crops samples and returns what does the same.

        Raises:
            Failure, Interrupted: see `vistill.data.loader.Loader`.
        """
        told, timeout = self.broken.told, self._loader.timeout
        return [*first_samples(self._reader, self._requests, count, watch, told, timeout)]

    def kinds(self) -> list[Batch]:
        """None: every batch is like the first."""
        return []

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Micro-batches of global steps `start_step` (inclusive) to `stop_step` (exclusive).

        Epochs are crossed without a pause, and workers live on between calls; a new call ends the
        one before.

        Raises:
            UserError: when too many pictures are broken.
            Failure, Interrupted: see `vistill.data.loader.Loader`.
        """
        self._requests.start, self._requests.stop = start_step, stop_step
        transform = self._reader.transform
        cut = transform.cut if isinstance(transform, DeviceCrop) else None
        answers = self._loader.answers(self._requests)
        yield from read_batches(answers, self.broken, whole=True, cache=self._reader.cache, cut=cut)

    def close(self) -> None:
        """End the loader processes."""
        self._loader.close()
