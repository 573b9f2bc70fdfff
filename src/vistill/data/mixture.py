"""Several sources as one: every step shows samples of one of them."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from vistill.batch import Batch
from vistill.data.broken import BrokenFiles, BrokenImage
from vistill.data.cache import CachedView, Found, PartCache, TeacherCache, Views
from vistill.data.captions import Captions
from vistill.data.decode import EndMissing
from vistill.data.inputs import Inputs, Items, Joined
from vistill.data.loader import TIMEOUT, Loader, Request
from vistill.data.loading import Decoder, SampleReader, eval_batches, read_batches
from vistill.data.source import Decoding, Media, Source, Stretch, Unlabelled
from vistill.data.stamps import Stamps
from vistill.data.stream import StepRequests, Watch, first_samples
from vistill.data.transforms import Transform
from vistill.data.video.proof import Proof
from vistill.errors import UserError
from vistill.random import mixture_order, mixture_steps, named_seed

_MIXED = Media("sample", frozenset(), "pictures and videos", "")
_FEW = 2
"""Samples of each source that are looked at before the first step."""


class MixedSource:
    """The samples of several sources, one source after the other (a `Source`).

    Args:
        sources: by name; names of samples begin with that of their source.
    """

    labels: np.ndarray | None = None
    splits: Sequence[str | None] | None = None

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)
        self._parts = list(self.sources.values())
        self.firsts = [0, *accumulate(len(source) for source in self._parts)]
        kinds = {source.media.noun: source.media for source in self._parts}
        self.media = _MIXED if len(kinds) > 1 else next(iter(kinds.values()))
        self.name = f"data.sources ({', '.join(self.sources)})"
        self.classes: list[str] | None = None
        labelled = any(source.classes is not None for source in self._parts)
        self.unlabelled: Unlabelled | None = Unlabelled(
            "a mixture of sources has no classes of its own", meant=labelled
        )
        self.notes = [
            f"{name}: {note}" for name, source in self.sources.items() for note in source.notes
        ]
        told = (one.captions or repeat((), len(one)) for one in self._parts)
        any_told = any(one.captions is not None for one in self._parts)
        self.captions: Sequence[Sequence[str]] | None = None
        if any_told:
            self.captions = Captions(chain.from_iterable(told))
        # What each source allows is seen to by its decoder.
        self.decoding = Decoding(allow_truncated=True)

    def __len__(self) -> int:
        return self.firsts[-1]

    def part(self, i: int) -> int:
        """Number of the source that sample `i` belongs to."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return bisect_right(self.firsts, i) - 1

    def _own(self, i: int) -> tuple[Source, int]:
        number = self.part(i)
        return self._parts[number], i - self.firsts[number]

    def sample_name(self, i: int) -> str:
        """Name of sample `i`, behind that of its source."""
        source, own = self._own(i)
        return f"{[*self.sources][self.part(i)]}: {source.sample_name(own)}"

    def read(self, i: int) -> bytes:
        """Encoded bytes of sample `i`."""
        source, own = self._own(i)
        return source.read(own)

    def place(self, i: int) -> str | bytes:
        """Path or bytes of sample `i`."""
        source, own = self._own(i)
        return source.place(own)

    def span(self, i: int) -> Stretch | None:
        """The part of video `i` that is the sample."""
        source, own = self._own(i)
        return source.span(own)

    def proof(self, i: int) -> Proof | None:
        """How the frames of video `i` are reached."""
        source, own = self._own(i)
        return source.proof(own)

    def fingerprint(self) -> str:
        """Those of all sources."""
        return "; ".join(f"{name}: {one.fingerprint()}" for name, one in self.sources.items())

    def stamps(self) -> Stamps:
        """Those of all samples."""
        return np.concatenate([source.stamps() for source in self._parts])


@dataclass(frozen=True)
class Part:
    """A source of a mixture and how its samples are read.

    Attributes:
        name: of the source in the mixture.
        mixed: all samples.
        train, test: from what is decoded to pixels.
        decode_train, decode_test: what is decoded of a sample.
        passes: how often an epoch goes through it.
    """

    name: str
    mixed: MixedSource
    train: Transform
    test: Transform
    decode_train: Decoder
    decode_test: Decoder
    passes: float = 1.0

    @property
    def number(self) -> int:
        """Of the source in the mixture."""
        return [*self.mixed.sources].index(self.name)

    @property
    def source(self) -> Source:
        """Its own samples."""
        return self.mixed.sources[self.name]

    @property
    def first(self) -> int:
        """Position of its first sample in the mixture."""
        return self.mixed.firsts[self.number]

    def own(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
        """Those of some positions in the mixture that are its samples'."""
        return indices[(indices >= self.first) & (indices < self.first + len(self.source))]


class PartDecoder:
    """Decodes samples of one source by their positions in the mixture."""

    def __init__(self, part: Part, decode: Decoder) -> None:
        self.own, self.first, self.decode = part.source, part.first, decode

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> UInt8[Tensor, "3 *size"]:
        try:
            return self.decode(self.own, sample - self.first, rng)
        except EndMissing as error:
            if not self.own.decoding.allow_truncated:
                raise BrokenImage(str(error)) from None
            raise


class PartInputs:
    """`item` and `source` of samples of one source by their positions in the mixture, and what
    else a method asks for."""

    def __init__(self, part: Part, inputs: Inputs | None) -> None:
        self.own, self.first = part.source, part.first
        items = Items(part.name, part.number)
        self.inputs: Inputs = items if inputs is None else Joined(items, inputs)

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        return self.inputs(self.own, sample - self.first, rng)


class MixtureRequests:
    """What to read in global steps `start` to `stop`: pure arithmetic, nothing read before.

    Every epoch goes through each source as often as its `passes` say, in a fresh order of steps. A
    source counts its own steps from epoch to epoch, so that no sample of it comes twice before all
    have come.

    Args:
        parts: what each source is asked for by its own steps.
        passes: over each source in an epoch.
        seed: the run's seed.
    """

    def __init__(self, parts: Sequence[StepRequests], passes: Sequence[float], seed: int) -> None:
        self.parts, self.seed = parts, seed
        self.steps = mixture_steps(passes, [part.steps_per_epoch for part in parts])
        self.steps_per_epoch = sum(self.steps)
        self.start, self.stop = 0, 0
        self._epoch = -1

    def turn(self, step: int) -> tuple[int, int]:
        """The source of a step, and which of the source's own steps it is."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order, self._epoch = mixture_order(self.steps, self.seed, epoch), epoch
        source = int(self._order[within])
        before = int(np.count_nonzero(self._order[:within] == source))
        return source, epoch * self.steps[source] + before

    def __iter__(self) -> Iterator[Request]:
        for step in range(self.start, self.stop):
            source, own = self.turn(step)
            yield from self.parts[source].of_step(own)


class MixtureReader:
    """Answers requests, each for samples of one source (a `loader.Reader`)."""

    def __init__(self, mixed: MixedSource, readers: Sequence[SampleReader]) -> None:
        self.mixed, self.readers = mixed, readers

    def name(self, sample: int) -> str:
        """What a sample is called."""
        return self.mixed.sample_name(sample)

    def __call__(self, request: Request) -> dict[str, Any]:
        return self.readers[self.mixed.part(int(request.samples[0]))](request)


class MixedCache:
    """The caches of all sources of a mixture, of which every batch is of one."""

    def __init__(self, mixed: MixedSource, caches: Sequence[PartCache]) -> None:
        self.mixed, self.caches = mixed, caches

    def for_batch(
        self, views: Views, ids: Int[Tensor, " b"], seeds: Int[Tensor, " b"], found: Found
    ) -> CachedView:
        """See `TeacherCache.for_batch`."""
        return self.caches[self.mixed.part(int(ids[0]))].for_batch(views, ids, seeds, found)


class MixtureStream:
    """Micro-batches of a mixture, a function of seed and step alone; see `TrainStream`.

    Args:
        parts: the sources, in the order of the mixture.
        indices: positions in the mixture to train on, ascending.
        seed: the run's seed.
        global_batch_size, micro_batch_size, rank, world_size, workers, max_broken, repeats,
            timeout: as of `TrainStream`.

    Raises:
        UserError: when the batch sizes do not fit the ranks or the samples of a source.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int,
        max_broken: float,
        repeats: int = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        mixed, requests = parts[0].mixed, []
        self._readers, self._parts = [], list(parts)
        for part in parts:
            try:
                asked = StepRequests(
                    part.own(indices),
                    seed=named_seed(seed, part.name),
                    global_batch_size=global_batch_size,
                    micro_batch_size=micro_batch_size,
                    rank=rank,
                    world_size=world_size,
                    noun=part.source.media.noun,
                )
            except UserError as error:
                raise UserError(f"data.sources.{part.name}: {error}") from error
            requests.append(asked)
            self._readers.append(
                SampleReader(
                    mixed,
                    part.train,
                    seed,
                    asked.indices,
                    decode=PartDecoder(part, part.decode_train),
                    repeats=repeats,
                    inputs=PartInputs(part, None),
                )
            )
        self._requests = MixtureRequests(requests, [part.passes for part in parts], seed)
        self._reader = MixtureReader(mixed, self._readers)
        self._loader = Loader(self._reader, workers, timeout)
        self.steps_per_epoch = self._requests.steps_per_epoch
        self.accumulation = requests[0].rank_batch_size // micro_batch_size
        self.broken = BrokenFiles(len(indices), max_broken, noun=mixed.media.noun)
        self._cache: MixedCache | None = None

    @property
    def steps(self) -> dict[str, int]:
        """Steps of an epoch that each source has."""
        names = [part.name for part in self._parts]
        return dict(zip(names, self._requests.steps, strict=True))

    def use(self, caches: Sequence[TeacherCache]) -> None:
        """Show the fixed views of a cache for each source, one after the other."""
        kept = [
            PartCache(cache, part.first) for part, cache in zip(self._parts, caches, strict=True)
        ]
        self._cache = MixedCache(self._reader.mixed, kept)
        for reader, asked, cache in zip(self._readers, self._requests.parts, kept, strict=True):
            reader.cache = cache
            asked.show(cache.own)

    def use_inputs(self, inputs: Inputs | None) -> None:
        """Let `inputs` make what batches hold beside pixels, besides `item` and `source`."""
        for reader, part in zip(self._readers, self._parts, strict=True):
            reader.inputs = PartInputs(part, inputs)

    def first(self, count: int, watch: Watch) -> list[Batch]:
        """The first samples of the first step of every source, see `TrainStream.first`."""
        each = max(1, count // len(self._readers))
        told, timeout = self.broken.told, self._loader.timeout
        return [
            batch
            for reader, asked in zip(self._readers, self._requests.parts, strict=True)
            for batch in first_samples(reader, asked, each, watch, told, timeout)
        ]

    def kinds(self) -> list[Batch]:
        """This rank's first few samples of every source, from which to learn what each reaches."""
        found: list[Batch] = []
        for reader, asked in zip(self._readers, self._requests.parts, strict=True):
            first = next(asked.of_step(0))
            few = first._replace(samples=first.samples[:_FEW])
            answers = Loader(reader, 0, self._loader.timeout).answers([few])
            found += read_batches(answers, self.broken, whole=True, cache=self._cache)
        return found

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Micro-batches of global steps `start_step` (inclusive) to `stop_step` (exclusive).

        Raises:
            UserError: when too many samples are broken.
            Failure, Interrupted: see `vistill.data.loader.Loader`.
        """
        self._requests.start, self._requests.stop = start_step, stop_step
        answers = self._loader.answers(self._requests)
        yield from read_batches(answers, self.broken, whole=True, cache=self._cache)

    def close(self) -> None:
        """End the loader processes."""
        self._loader.close()


def eval_mixture(
    parts: Sequence[Part],
    indices: Int[np.ndarray, " n"],
    *,
    train_view: bool = False,
    inputs: Inputs | None = None,
    caches: Sequence[TeacherCache] = (),
    **options: Any,
) -> Iterator[Batch]:
    """Every sample once, one source after the other; see `vistill.data.loading.eval_batches`.

    Args:
        parts: the sources.
        indices: positions in the mixture.
        train_view: whether they are cropped as in training.
        inputs: makes what batches hold beside pixels, `item` and `source`.
        caches: one for each source, or none at all.
        options: of `eval_batches`.
    """
    for part, cache in zip(parts, caches or repeat(None, len(parts)), strict=True):
        yield from eval_batches(
            part.mixed,
            part.own(indices),
            part.train if train_view else part.test,
            decode=PartDecoder(part, part.decode_train if train_view else part.decode_test),
            inputs=PartInputs(part, inputs),
            cache=None if cache is None else PartCache(cache, part.first),
            **options,
        )
