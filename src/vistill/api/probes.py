"""What is measured between epochs: the loss on held-out pictures and a nearest-neighbour probe."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vistill.batch import Batch
from vistill.config.schema import RunConfig
from vistill.data import BrokenFiles, EvalTransform, Source, eval_batches
from vistill.data.cache import TeacherCache
from vistill.evaluation.features import extract_features
from vistill.evaluation.knn import knn_votes
from vistill.methods.base import Method

_BANK, _QUERIES = 1500, 500
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Probes:
    """Called with the finished epoch; returns `held_out_loss` and, with labels, `knn` in percent.

    Args:
        config: of the run.
        method: what is trained.
        source: all pictures.
        train: indices of the training pictures, of which up to 1,500 labelled ones are neighbours.
        held_out: indices of the held-out pictures, of which up to 500 labelled ones are classified.
        device: where the method is.
        told: names of broken pictures that were logged.
        cache: what the teacher said about the held-out pictures.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        source: Source,
        train: np.ndarray,
        held_out: np.ndarray,
        device: torch.device,
        told: set[str] | None = None,
        cache: TeacherCache | None = None,
    ) -> None:
        self.cache = cache
        self.config, self.method, self.source, self.device = config, method, source, device
        self.held_out = held_out
        self.broken = BrokenFiles(len(source), max_share=1.0, told=told)
        self.bank = self._labelled(train, _BANK)
        self.queries = self._labelled(held_out, _QUERIES)

    @torch.no_grad()
    def __call__(self, epoch: int) -> dict[str, float]:
        if not len(self.held_out):
            return {}
        self.method.eval()
        values = {"held_out_loss": self._held_out_loss()}
        if self.config.train.knn_probe and len(self.bank) and len(self.queries):
            values["knn"] = self._knn()
        return values

    def _labelled(self, indices: np.ndarray, most: int) -> np.ndarray:
        if self.source.labels is None:
            return indices[:0]
        known = indices[self.source.labels[indices] >= 0]
        return np.random.default_rng(self.config.seed).permutation(known)[:most]

    def _held_out_loss(self) -> float:
        total, count = 0.0, 0
        dtype = _AUTOCAST.get(self.config.train.precision)
        for batch in self._batches():
            with torch.autocast(
                self.device.type, dtype or torch.bfloat16, enabled=dtype is not None
            ):
                loss = self.method(batch.to(self.device)).total
            total += float(loss) * len(batch)
            count += len(batch)
        return total / count if count else float("nan")

    def _batches(self) -> Iterator[Batch]:
        train, data = self.config.train, self.config.data
        batches = eval_batches(
            self.source,
            self.held_out,
            EvalTransform(data.image_size),
            batch_size=min(train.micro_batch_size or train.global_batch_size, 64),
            workers=0,
            broken=self.broken,
            cache=self.cache,
            view=None if self.cache is None else self.cache.test_view,
        )
        for batch in batches:
            # The same masks and jitter every time, so that epochs can be compared.
            yield replace(batch, seeds=batch.ids)

    def _knn(self) -> float:
        def features(indices: np.ndarray) -> tuple[Tensor, Tensor, dict[str, str]]:
            return extract_features(
                self.method.backbone,
                self.source,
                indices,
                image_size=self.config.data.image_size,
                pool="avg",
                batch_size=64,
                workers=0,
                device=self.device,
                broken=self.broken,
            )

        bank, bank_labels, _ = features(self.bank)
        queries, labels, _ = features(self.queries)
        votes = knn_votes(bank, bank_labels, queries, int(bank_labels.max()) + 1)
        return float((votes.argmax(dim=1) == labels).float().mean()) * 100
