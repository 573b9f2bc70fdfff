"""Samples with boxes, of which each has as many as it has: batches, and how they are read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vistill.batch import Batch
from vistill.data.broken import BrokenFiles, BrokenImage
from vistill.data.loader import TIMEOUT, Loader, Request
from vistill.data.loading import REPLACEMENTS
from vistill.data.processes import beat
from vistill.data.stream import StepRequests
from vistill.data.video.reader import BrokenVideo
from vistill.errors import UserError
from vistill.random import replacement, sample_seeds


@dataclass
class BoxedBatch(Batch):
    """A batch with boxes.

    Attributes:
        boxes: sample of the batch, in ascending order, and x0, y0, x1, y1 in pixels.
        of_boxes: names of the further fields with a row for every box.
    """

    boxes: Float[Tensor, "k 5"] | None = None
    of_boxes: ClassVar[tuple[str, ...]] = ()

    def to(self, device: torch.device | str) -> Self:
        moved = {name: value.to(device, non_blocking=True) for name, value in self._rows().items()}
        return type(self)(**vars(super().to(device)) | moved)

    def first(self, count: int) -> Self:
        rows = self._rows()
        kept = rows["boxes"][:, 0] < count
        fewer = {name: value[kept] for name, value in rows.items()}
        return type(self)(**vars(super().first(count)) | fewer)

    def of(self, number: int) -> dict[str, Tensor]:
        """The boxes of one sample, `[k, 4]`, and what is known of them."""
        rows = self._rows()
        kept = rows["boxes"][:, 0] == number
        found = {name: value[kept] for name, value in rows.items()}
        return found | {"boxes": found["boxes"][:, 1:]}

    def _rows(self) -> dict[str, Tensor]:
        fields = {name: getattr(self, name) for name in ("boxes", *self.of_boxes)}
        return {name: value for name, value in fields.items() if value is not None}


class BoxedReader(ABC):
    """Answers a Request with samples, their boxes and what is broken (a `loader.Reader`).

    Args:
        count: samples, which a request counts.
        seed: the run's seed.
        replace: take another sample in the place of a broken one, instead of leaving it out.

    Attributes:
        batch: what the answers become.
    """

    batch: type[BoxedBatch]

    def __init__(self, count: int, seed: int, *, replace: bool) -> None:
        self.count, self.seed, self.replace = count, seed, replace

    @abstractmethod
    def name(self, sample: int) -> str:
        """What a sample is called."""

    @abstractmethod
    def read(self, sample: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """One sample: `pixels` and `inputs`, `boxes` and what is known of each box.

        Raises:
            BrokenImage, BrokenVideo: it cannot be read.
        """

    def __call__(self, request: Request) -> dict[str, Any]:
        broken: list[tuple[str, str]] = []
        read: list[dict[str, Any]] = []
        seeds, ids = [], []
        asked = sample_seeds(self.seed, request.epoch, request.samples).tolist()
        for sample, seed in zip(request.samples.tolist(), asked, strict=True):
            for attempt in range(REPLACEMENTS if self.replace else 1):
                chosen = replacement(seed, attempt, self.count) if attempt else sample
                rng = np.random.Generator(np.random.PCG64(seed & (2**64 - 1)))
                beat(chosen)
                try:
                    found = dict(self.read(chosen, rng))
                except (BrokenImage, BrokenVideo) as error:
                    broken.append((self.name(chosen), str(error)))
                    continue
                read.append(found | {"boxes": F.pad(found["boxes"], (1, 0), value=len(read))})
                seeds.append(seed)
                ids.append(chosen)
                break
        answer: dict[str, Any] = {"asked": len(asked), "broken": broken}
        if read:
            answer |= _together(read)
            answer |= {"seeds": torch.tensor(seeds), "ids": torch.tensor(ids)}
        return answer


def _together(read: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples as one: what is of a sample is stacked, what is of its boxes follows one another."""
    made: dict[str, Any] = {
        name: torch.cat([one[name] for one in read])
        for name in read[0].keys() - {"pixels", "inputs"}
    }
    made["pixels"] = torch.stack([one["pixels"] for one in read])
    if "inputs" in read[0]:
        names = read[0]["inputs"]
        made["inputs"] = {
            name: torch.stack([one["inputs"][name] for one in read]) for name in names
        }
    return made


class BoxedStream:
    """Training batches of samples with boxes, a function of seed and step alone.

    Args:
        reader: reads the samples.
        global_batch_size: samples per optimiser step.
        micro_batch_size: samples per forward pass.
        workers: loader processes; 0 reads in this one.
        broken: account of the samples that cannot be read.
        timeout: seconds that reading one may take.
        rank, world_size: this process among all.
    """

    def __init__(
        self,
        reader: BoxedReader,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        workers: int,
        broken: BrokenFiles,
        timeout: float = TIMEOUT,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._requests = StepRequests(
            np.arange(reader.count),
            seed=reader.seed,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
        )
        self._loader, self._batch = Loader(reader, workers, timeout), reader.batch
        self.steps_per_epoch = self._requests.steps_per_epoch
        self.accumulation = self._requests.rank_batch_size // micro_batch_size
        self.broken = broken

    def kinds(self) -> list[BoxedBatch]:
        """None: every batch is like the first."""
        return []

    def iterate(self, start_step: int, stop_step: int) -> Iterator[BoxedBatch]:
        """Micro-batches of global steps `start_step` (inclusive) to `stop_step` (exclusive).

        Raises:
            UserError: too many samples are broken.
            Failure, Interrupted: see `vistill.data.loader.Loader`.
        """
        self._requests.start, self._requests.stop = start_step, stop_step
        answers = self._loader.answers(self._requests)
        for batch, complete in _batches(answers, self._batch, self.broken):
            if not complete or batch is None:
                noun = self.broken.noun
                raise UserError(f"too few {noun}s can be read: {self.broken.listed()}")
            yield batch

    def close(self) -> None:
        """End the loader processes."""
        self._loader.close()


def each_sample(
    reader: BoxedReader,
    numbers: Sequence[int],
    workers: int,
    broken: BrokenFiles,
    timeout: float = TIMEOUT,
) -> Iterator[BoxedBatch]:
    """Samples of such numbers, each alone, since they differ in size; broken ones are left out and
    noted."""
    requests = [Request(0, np.array([number])) for number in numbers]
    with closing(Loader(reader, min(workers, len(requests)), timeout)) as loader:
        for batch, _ in _batches(loader.answers(requests), reader.batch, broken):
            if batch is not None:
                yield batch


def _batches(
    answers: Iterator[dict[str, Any]], kind: type[BoxedBatch], broken: BrokenFiles
) -> Iterator[tuple[BoxedBatch | None, bool]]:
    """Batches, and whether they hold all that was asked for."""
    for answer in answers:
        broken.add(answer.pop("broken"))
        asked = answer.pop("asked")
        batch = kind(**answer) if answer else None
        yield batch, batch is not None and len(batch) == asked
