"""Measure one backbone by kNN, linear probe and fine-tuning over label budgets and seeds."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.data import Source
from vistill.errors import UserError
from vistill.evaluation import knn, linear_probe, tuning
from vistill.evaluation.budgets import budget_text, label_budget
from vistill.evaluation.classifier import build_classifier, prepare_backbone
from vistill.evaluation.finetune import length_of
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.labelled import labelled_parts, without_pictures
from vistill.evaluation.metrics import Score, score
from vistill.evaluation.pictures import Answers, Pictures
from vistill.evaluation.saved_classifier import (
    Head,
    budget_folder,
    head_rows,
    new_folder,
    put_head,
)
from vistill.evaluation.sweep import candidates, require_validation
from vistill.models.backbone import Backbone
from vistill.training.distributed import World, alone
from vistill.training.precision import require_precision


class Classifying(NamedTuple):
    """An evaluator that gives class scores of test pictures.

    Attributes:
        evaluate: `(model, data, options, world) -> Answers`, of which options are the section of
            the settings with the evaluator's name.
        draws: whether a seed changes the answers where all labels are used.
    """

    evaluate: Callable[[Backbone, Pictures, Any, World], Answers]
    draws: bool = True


EVALUATORS: Mapping[str, Classifying] = {
    "knn": Classifying(knn.evaluate, draws=False),
    "linear": Classifying(linear_probe.evaluate),
    "finetune": Classifying(tuning.evaluate),
}
"""By protocol."""


def evaluate_backbone(
    backbone: Backbone,
    train_source: Source,
    test_source: Source | None,
    config: EvaluateConfig,
    *,
    clips: ClipSettings | None = None,
    head: Head | None = None,
    progress: bool = True,
    world: World | None = None,
) -> list[Score]:
    """One score per protocol, budget and seed.

    What draws nothing, as kNN with all labels, is run for the first seed only.

    Args:
        backbone: what is measured; it is left as it is.
        train_source: labelled pictures to learn from.
        test_source: labelled pictures to test on; None takes a part of `train_source`, the same for
            all seeds.
        config: everything else; its `protocols` are among `knn`, `linear`, `finetune`.
        clips: how clips are taken from videos, for a backbone of clips; probes see the middle view.
        head: which `finetune.head` takes rows of.
        progress: whether to show anything.
        world: the ranks, which all give the scores of one; None: this process alone.

    Raises:
        UserError: no labels, differing classes, or settings that do not suit the backbone.
    """
    world = world or alone(config.device)
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
        require_precision(finetune.precision, world.kind, "finetune.precision")
        if len(candidates(finetune)) > 1:
            for labels in chosen.values():
                require_validation(train.classes[labels])
        inputs.training(finetune)
        for labels in chosen.values():
            length_of(finetune, len(labels), train.source.media.noun, world)
        first = build_classifier(
            model, num_classes, image_size=size, pool=pool, options=finetune, seed=config.seeds[0]
        )
        if head is not None:
            head = head_rows(head, num_classes, finetune.head)
            put_head(first, head)
    data = Pictures(
        train,
        test,
        num_classes,
        inputs,
        config,
        world,
        progress and world.main,
        None if head is None else head.state,
        train.indices,
        config.seeds[0],
    )
    scores = []
    keep = finetune.keep if "finetune" in config.protocols and world.main else None
    with new_folder(keep) as models:
        for protocol in config.protocols:
            evaluator = EVALUATORS[protocol]
            for (budget, seed), labels in chosen.items():
                whole = len(labels) == len(train.indices)
                if whole and not evaluator.draws and seed != config.seeds[0]:
                    continue
                count = f"{budget_text(budget)} = {len(labels)} labels"
                data.say(f"{protocol} with {count}, seed {seed}")
                folder = models / budget_folder(budget, seed) if models is not None else None
                trial = replace(data, chosen=labels, seed=seed, folder=folder)
                answers = evaluator.evaluate(model, trial, getattr(config, protocol), world)
                data.say_unread(answers.broken)
                scores.append(
                    score(
                        answers.scores,
                        answers.labels,
                        protocol=protocol,
                        budget=budget,
                        labels_used=answers.labels_used,
                        seed=seed,
                        seconds=answers.seconds,
                        broken=answers.broken,
                        best_top1=answers.best_top1,
                        tried=answers.tried,
                        untested=untested,
                    )
                )
    return scores
