"""What is measured between epochs: the loss on held-out pictures and a nearest-neighbour probe."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vistill.batch import Batch
from vistill.config.evaluation import KNNConfig
from vistill.config.schema import RunConfig
from vistill.data import BrokenFiles
from vistill.data.cache import TeacherCache
from vistill.evaluation import knn
from vistill.evaluation.features import pooling
from vistill.evaluation.pictures import Extracted, Split
from vistill.methods.base import Method
from vistill.models.backbone import Backbone
from vistill.models.precision import AUTOCAST
from vistill.runs.reading import Reading
from vistill.training.distributed import World
from vistill.training.precision import plain

_BANK, _QUERIES = 1500, 500
_CLIP_BANK, _CLIP_QUERIES = 600, 200
"""Clips take longer to decode."""


class Probes:
    """Called with the finished epoch; returns `held_out_loss` and, with labels, `knn` in percent.

    Of several students each has its own, `NAME/held_out_loss` and `NAME/knn`.

    Args:
        config: of the run.
        method: what is trained.
        reading: all samples and how they are read.
        train: indices of the training samples; of the labelled ones up to 1,500 pictures, or 600
            clips, are neighbours.
        held_out: indices of the held-out samples; of the labelled ones up to 500 pictures, or 200
            clips, are classified.
        device: where the method is.
        workers: loader processes for clips; pictures are read in this one.
        told: names of broken samples that were logged.
        caches: what the teacher said about the held-out pictures; see `Reading.eval_batches`.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        reading: Reading,
        train: np.ndarray,
        held_out: np.ndarray,
        device: torch.device,
        workers: int,
        told: set[str] | None = None,
        caches: Sequence[TeacherCache] = (),
    ) -> None:
        self.caches = caches
        self.config, self.method, self.reading, self.device = config, method, reading, device
        self.source, clips = reading.source, config.data.frames is not None
        self.workers = workers if clips else 0
        most = min(config.train.micro_batch_size or config.train.global_batch_size, 64)
        self.batch_size = max(1, most // (config.data.frames or 1))
        self.held_out = held_out
        self.broken = BrokenFiles(
            len(self.source), max_share=1.0, told=told, noun=self.source.media.noun
        )
        self.bank = self._labelled(train, _CLIP_BANK if clips else _BANK)
        self.queries = self._labelled(held_out, _CLIP_QUERIES if clips else _QUERIES)

    @torch.no_grad()
    def __call__(self, epoch: int) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        self.method.eval()
        values = {_key(name, "held_out_loss"): x for name, x in self._held_out_losses().items()}
        if self.config.train.knn_probe and len(self.bank) and len(self.queries):
            for name, student in self.method.exports.items():
                values[_key(name, "knn")] = self._knn(student)
        return values

    def _labelled(self, indices: np.ndarray, most: int) -> np.ndarray:
        if self.source.labels is None:
            return indices[:0]
        known = indices[self.source.labels[indices] >= 0]
        return np.random.default_rng(self.config.seed).permutation(known)[:most]

    def _held_out_losses(self) -> dict[str, float]:
        """The loss of each student."""
        totals, count = dict.fromkeys(self.method.exports, 0.0), 0
        dtype = AUTOCAST[plain(self.config.train.precision, self.device)]
        for batch in self._batches(self.held_out, self.caches):
            with torch.autocast(
                self.device.type, dtype or torch.bfloat16, enabled=dtype is not None
            ):
                losses = self.method(batch.to(self.device))
            for name in totals:
                loss = losses.terms[name] if name else losses.total
                totals[name] += float(loss) * len(batch)
            count += len(batch)
        return {name: total / count if count else float("nan") for name, total in totals.items()}

    def _batches(self, indices: np.ndarray, caches: Sequence[TeacherCache] = ()) -> Iterator[Batch]:
        batches = self.reading.eval_batches(
            indices,
            batch_size=self.batch_size,
            workers=self.workers,
            timeout=self.config.data.timeout,
            broken=self.broken,
            caches=caches,
            view=next((cache.test_view for cache in caches), None),
        )
        for batch in batches:
            # The same masks and jitter every time, so that epochs can be compared.
            yield replace(batch, seeds=batch.ids)

    def _features(self, student: Backbone, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        pool = pooling(student, "avg")
        rows, labels = [torch.empty(0)], [torch.empty(0, dtype=torch.long)]
        for batch in self._batches(indices):
            assert batch.labels is not None
            rows.append(pool(batch.to(self.device)).float().cpu())
            labels.append(batch.labels)
        return torch.cat(rows[1:] or rows), torch.cat(labels)

    def _knn(self, student: Backbone) -> float:
        bank, labels = self._features(student, self.bank)
        queries, truth = self._features(student, self.queries)
        if not len(bank) or not len(queries):
            return float("nan")
        data = Extracted(Split(bank, labels, queries, truth), int(labels.max()) + 1)
        # Rank 0 probes alone.
        return 100 * knn.evaluate(student, data, KNNConfig(), World(0, 1, self.device)).top1


def _key(student: str, metric: str) -> str:
    return f"{student}/{metric}" if student else metric
