"""The evaluator `finetune`: a whole backbone learns from labels, then is tested (spec 7)."""

import time
from collections.abc import Callable

import numpy as np
import torch

from vistill.config.finetune import FineTuneConfig
from vistill.evaluation.budgets import split_labelled
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.features import Features, collect
from vistill.evaluation.finetune import class_scores, fine_tune, length_of
from vistill.evaluation.inputs import workers_of
from vistill.evaluation.labelled import Labelled
from vistill.evaluation.metrics import Tried, top_k_hits
from vistill.evaluation.pictures import Answers, Pictures
from vistill.evaluation.saved_classifier import save_classifier
from vistill.evaluation.sweep import candidates, choose, setting_text
from vistill.models.backbone import Backbone
from vistill.training.distributed import World, alone


def evaluate(model: Backbone, data: Pictures, options: FineTuneConfig, world: World) -> Answers:
    """The evaluator `finetune`: ranks share every batch, and the test pictures."""
    start = time.monotonic()
    data.note(length_of(options, len(data.chosen), data.noun))
    setting, tried = _choose_setting(model, data, options, world)
    tests: list[tuple[float, Features]] = []

    def test(classifier: Classifier) -> float:
        tests.append(_tested(classifier, data, data.test, data.test.indices, alone(world.kind)))
        return tests[-1][0]

    during = test if setting.test_every is not None else None
    classifier = _tuned(model, data, data.chosen, setting, world, during)
    if data.folder is not None:
        classes = data.train.source.classes or []
        value_range = data.train.source.decoding.value_range
        save_classifier(classifier, data.folder, classes, data.inputs.clips, value_range)
        data.say(f"kept in {data.folder}")
    best: float | None = None
    if during is None:
        _, found = _tested(classifier, data, data.test, data.test.indices, world)
    else:
        tests = world.broadcast(tests)  # rank 0 alone has tested
        best, found = max(top1 for top1, _ in tests), tests[-1][1]
    return Answers(
        found.features,
        data.truth(found),
        len(data.chosen),
        time.monotonic() - start,
        tuple(sorted(found.broken)),
        best,
        tried,
    )


def _choose_setting(
    model: Backbone, data: Pictures, options: FineTuneConfig, world: World
) -> tuple[FineTuneConfig, tuple[Tried, ...]]:
    """Learning rate and weight decay by a stratified part of the chosen pictures."""
    settings = candidates(options)
    if len(settings) == 1:
        return settings[0], ()
    train = data.train
    fitted, check = split_labelled(train.classes[data.chosen], options.validation_share, data.seed)

    def accuracy(setting: FineTuneConfig) -> float:
        classifier = _tuned(model, data, data.chosen[fitted], setting, world)
        top1, _ = _tested(classifier, data, train, data.chosen[check], world)
        data.say(f"{setting_text(setting)}: {top1:.1%} of {len(check)} validation {data.noun}s")
        return top1

    return choose(settings, accuracy)


def _tuned(
    model: Backbone,
    data: Pictures,
    chosen: np.ndarray,
    options: FineTuneConfig,
    world: World,
    on_test: Callable[[Classifier], float] | None = None,
) -> Classifier:
    return fine_tune(
        model,
        data.train.source,
        chosen,
        num_classes=data.num_classes,
        options=options,
        inputs=data.inputs,
        pool=data.config.pool,
        seed=data.seed,
        workers=workers_of(data.config, world.size),
        world=world,
        progress=data.progress,
        on_test=on_test,
        told=data.logged,
        head=data.head,
    )


def _tested(
    classifier: Classifier, data: Pictures, part: Labelled, indices: np.ndarray, world: World
) -> tuple[float, Features]:
    """Top-1 accuracy on samples of `part`, and their class scores."""
    found = collect(
        classifier,
        class_scores(classifier),
        part.source,
        indices,
        inputs=data.inputs,
        batch_size=data.config.batch_size or data.inputs.at_once,
        workers=workers_of(data.config, world.size),
        device=data.world.device,
        progress="testing" if data.progress else None,
        interpolation=classifier.options.interpolation,
        broken=data.account(part, indices),
        world=world,
    )
    labels = torch.from_numpy(part.classes)[found.ids]
    return top_k_hits(found.features, labels, 1) / len(labels), found
