"""Measure one backbone by kNN, linear probe and fine-tuning over label budgets and seeds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.config.finetune import FineTuneConfig
from vistill.data import BrokenFiles, Source
from vistill.errors import UserError
from vistill.evaluation.budgets import budget_text, label_budget, split_labelled
from vistill.evaluation.classifier import Classifier, build_classifier, prepare_backbone
from vistill.evaluation.features import Features, collect, pooling
from vistill.evaluation.finetune import class_scores, fine_tune
from vistill.evaluation.finetune import length_of as tuning_length
from vistill.evaluation.inputs import Inputs, workers_of
from vistill.evaluation.knn import knn_votes
from vistill.evaluation.labelled import Labelled, labelled_parts, without_pictures
from vistill.evaluation.lengths import Length
from vistill.evaluation.linear_probe import length_of as probe_length
from vistill.evaluation.linear_probe import linear_probe
from vistill.evaluation.metrics import Score, Tried, score, top_k_hits
from vistill.evaluation.saved_classifier import (
    Head,
    budget_folder,
    head_rows,
    new_folder,
    put_head,
    save_classifier,
)
from vistill.evaluation.sweep import candidates, choose, require_validation, setting_text
from vistill.models.backbone import Backbone
from vistill.training.distributed import device_kind
from vistill.training.precision import require_precision
from vistill.training.progress import tell


def evaluate_backbone(
    backbone: Backbone,
    train_source: Source,
    test_source: Source | None,
    config: EvaluateConfig,
    *,
    clips: ClipSettings | None = None,
    head: Head | None = None,
    progress: bool = True,
) -> list[Score]:
    """One score per protocol, budget and seed.

    kNN with all labels has nothing random and is run for the first seed only.

    Args:
        backbone: what is measured; it is left as it is.
        train_source: labelled pictures to learn from.
        test_source: labelled pictures to test on; None takes a part of `train_source`, the same for
            all seeds.
        config: everything else; its `protocols` are among `knn`, `linear`, `finetune`.
        clips: how clips are taken from videos, for a backbone of clips; probes see the middle view.
        head: which `finetune.head` takes rows of.
        progress: whether to show anything.

    Raises:
        UserError: no labels, differing classes, or settings that do not suit the backbone.
    """
    kind = device_kind(config.device, "device")
    train, test, num_classes = labelled_parts(
        train_source, test_source, config.test_share, train_first=config.train_first
    )
    untested = without_pictures(test, train_source.classes or [])
    chosen = {
        (budget, seed): train.indices[label_budget(train.classes[train.indices], budget, seed)]
        for budget in config.budgets
        for seed in config.seeds
    }
    size = backbone.image_size if config.image_size is None else config.image_size
    pool, finetune = config.pool, config.finetune
    if pool == "cls" and ("norm" not in backbone.taps or not backbone.has_class_token):
        raise UserError(
            f"this backbone ({backbone.origin}) has no class token behind a final norm; "
            "set pool=avg"
        )
    inputs = Inputs(size, clips, config.timeout)
    frames = None if clips is None else clips.frames
    model = prepare_backbone(backbone, size, pool, frames, finetune.positions)
    for part in (train, test):
        inputs.require(part.source)
    if "finetune" in config.protocols:
        require_precision(finetune.precision, kind, "finetune.precision")
        if len(candidates(finetune)) > 1:
            for labels in chosen.values():
                require_validation(train.classes[labels])
        inputs.training(finetune)
        first = build_classifier(
            model, num_classes, image_size=size, pool=pool, options=finetune, seed=config.seeds[0]
        )
        if head is not None:
            head = head_rows(head, num_classes, finetune.head)
            put_head(first, head)
    runner = _Runner(model, train, test, num_classes, inputs, config, kind, progress, head)
    scores = []
    with new_folder(finetune.keep if "finetune" in config.protocols else None) as models:
        for protocol in config.protocols:
            for (budget, seed), labels in chosen.items():
                if (
                    protocol == "knn"
                    and len(labels) == len(train.indices)
                    and seed != config.seeds[0]
                ):
                    continue
                count = f"{budget_text(budget)} = {len(labels)} labels"
                runner.say(f"{protocol} with {count}, seed {seed}")
                if protocol == "knn":
                    found = runner.knn(labels)
                elif protocol == "linear":
                    found = runner.linear(labels, seed)
                else:
                    folder = models / budget_folder(budget, seed) if models is not None else None
                    found = runner.finetune(labels, seed, folder)
                scores.append(
                    score(
                        found.scores,
                        found.labels,
                        protocol=protocol,
                        budget=budget,
                        labels_used=found.labels_used,
                        seed=seed,
                        seconds=found.seconds,
                        broken=found.broken,
                        best_top1=found.best_top1,
                        tried=found.tried,
                        untested=untested,
                    )
                )
    return scores


@dataclass(frozen=True)
class _Found:
    """Class scores of the test pictures that can be read."""

    scores: Tensor
    labels: Tensor
    labels_used: int
    seconds: float
    broken: tuple[str, ...]
    best_top1: float | None = None
    tried: tuple[Tried, ...] = ()


@dataclass
class _Runner:
    """Runs the protocols; features are extracted when first asked for and kept."""

    model: Backbone
    train: Labelled
    test: Labelled
    num_classes: int
    inputs: Inputs
    config: EvaluateConfig
    device: Literal["cpu", "cuda"]
    progress: bool
    head: Head | None
    extracted: dict[bool, Features] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    logged: set[str] = field(default_factory=set)

    @property
    def noun(self) -> str:
        """What a sample is called."""
        return self.train.source.media.noun

    def say(self, text: str) -> None:
        """A line on standard error."""
        if self.progress:
            tell(text)

    def note(self, length: Length) -> None:
        """Say once what of its settings a training on few samples leaves out."""
        if length.note is not None and length.note not in self.told:
            self.told.add(length.note)
            self.say(length.note)

    def knn(self, chosen: np.ndarray) -> _Found:
        options = self.config.knn
        bank, labels, queries = self._features_for(chosen)
        start = time.monotonic()
        votes = knn_votes(
            bank, labels, queries, self.num_classes, k=options.k, temperature=options.temperature
        )
        return self._tested(self._features(test=True), votes, len(labels), start)

    def linear(self, chosen: np.ndarray, seed: int) -> _Found:
        options = self.config.linear
        features, labels, queries = self._features_for(chosen)
        self.note(probe_length(options, len(labels), self.noun))
        start = time.monotonic()
        scores = linear_probe(
            features, labels, queries, self.num_classes, options=options, seed=seed
        )
        return self._tested(self._features(test=True), scores, len(labels), start)

    def finetune(self, chosen: np.ndarray, seed: int, folder: Path | None = None) -> _Found:
        options, start = self.config.finetune, time.monotonic()
        self.note(tuning_length(options, len(chosen), self.noun))
        options, tried = self._choose_setting(chosen, options, seed)
        accuracies: list[float] = []
        found: list[Features] = []

        def test(classifier: Classifier) -> float:
            top1, scores = self._accuracy(classifier, self.test, self.test.indices)
            accuracies.append(top1)
            found[:] = [scores]
            return top1

        classifier = self._fine_tune(chosen, options, seed, on_test=test)
        if folder is not None:
            classes = self.train.source.classes or []
            value_range = self.train.source.decoding.value_range
            save_classifier(classifier, folder, classes, self.inputs.clips, value_range)
            self.say(f"kept in {folder}")
        last = self._tested(found[0], found[0].features, len(chosen), start)
        best = None if options.test_every is None else max(accuracies)
        return replace(last, best_top1=best, tried=tried)

    def _choose_setting(
        self, chosen: np.ndarray, options: FineTuneConfig, seed: int
    ) -> tuple[FineTuneConfig, tuple[Tried, ...]]:
        """Learning rate and weight decay by a stratified part of the chosen pictures."""
        settings = candidates(options)
        if len(settings) == 1:
            return settings[0], ()
        fit, check = split_labelled(self.train.classes[chosen], options.validation_share, seed)

        def accuracy(setting: FineTuneConfig) -> float:
            classifier = self._fine_tune(chosen[fit], setting, seed)
            top1, _ = self._accuracy(classifier, self.train, chosen[check])
            self.say(f"{setting_text(setting)}: {top1:.1%} of {len(check)} validation {self.noun}s")
            return top1

        return choose(settings, accuracy)

    def _fine_tune(
        self,
        chosen: np.ndarray,
        options: FineTuneConfig,
        seed: int,
        on_test: Callable[[Classifier], float] | None = None,
    ) -> Classifier:
        return fine_tune(
            self.model,
            self.train.source,
            chosen,
            num_classes=self.num_classes,
            options=options,
            inputs=self.inputs,
            pool=self.config.pool,
            seed=seed,
            workers=workers_of(self.config),
            device=self.device,
            progress=self.progress,
            on_test=on_test,
            told=self.logged,
            head=None if self.head is None else self.head.state,
        )

    def _accuracy(
        self, classifier: Classifier, part: Labelled, indices: np.ndarray
    ) -> tuple[float, Features]:
        """Top-1 accuracy on pictures of `part`, and their class scores."""
        found = collect(
            classifier,
            class_scores(classifier),
            part.source,
            indices,
            inputs=self.inputs,
            batch_size=self.config.batch_size or self.inputs.at_once,
            workers=workers_of(self.config),
            device=self.device,
            progress="testing" if self.progress else None,
            interpolation=classifier.options.interpolation,
            broken=self._account(part, indices),
        )
        labels = torch.from_numpy(part.classes)[found.ids]
        return top_k_hits(found.features, labels, 1) / len(labels), found

    def _tested(self, found: Features, scores: Tensor, used: int, start: float) -> _Found:
        new = sorted(set(found.broken) - self.told)
        if new:
            self.say(f"{len(new)} unreadable test {self.noun}s are left out: {', '.join(new)}")
            self.told.update(new)
        return _Found(
            scores=scores.cpu(),
            labels=torch.from_numpy(self.test.classes)[found.ids],
            labels_used=used,
            seconds=time.monotonic() - start,
            broken=tuple(sorted(found.broken)),
        )

    def _features_for(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Features and labels of the chosen training pictures, and the test features."""
        train = self._features(test=False)
        rows = torch.from_numpy(np.isin(train.ids.numpy(), chosen))
        if int(rows.sum()) < 2:
            raise UserError(
                f"fewer than two of the chosen {self.noun}s of {self.train.source.name} can be read"
            )
        labels = torch.from_numpy(self.train.classes)[train.ids[rows]]
        test = self._features(test=True)
        return (
            train.features[rows].to(self.device),
            labels.to(self.device),
            test.features.to(self.device),
        )

    def _features(self, *, test: bool) -> Features:
        if test not in self.extracted:
            part = self.test if test else self.train
            self.extracted[test] = collect(
                self.model,
                pooling(self.model, self.config.pool),
                part.source,
                part.indices,
                inputs=self.inputs.middle,
                batch_size=self.config.batch_size or self.inputs.at_once,
                workers=workers_of(self.config),
                device=self.device,
                progress=f"features of {part.source.name}" if self.progress else None,
                broken=self._account(part, part.indices),
            )
        return self.extracted[test]

    def _account(self, part: Labelled, indices: np.ndarray) -> BrokenFiles:
        """Of samples that cannot be read, each of which is logged once for all protocols."""
        noun = part.source.media.noun
        return BrokenFiles(len(indices), max_share=1.0, told=self.logged, noun=noun)
