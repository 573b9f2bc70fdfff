"""A backbone measured by the protocols that a configuration names, or built afresh to compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.reference import require_trained
from vistill.runs.results import EvaluateResult, say_notes
from vistill.runs.samples import as_trained, clips_of, open_samples

if TYPE_CHECKING:
    from torch import nn

    from vistill.evaluation.detection.detect import DetectionScore
    from vistill.evaluation.metrics import Score
    from vistill.evaluation.retrieval import ChoiceScore, RetrievalScore
    from vistill.models.backbone import Backbone
    from vistill.models.joint import JointModel
    from vistill.models.text.answering import UMTAnswers


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        config: how.
        given: the model as the user named it.
        reference: the same as `vistill.models.build` reads it.
        own: the module of the user's that it becomes.
        data: where the samples are.
        random_init: whether fresh weights are measured instead.
    """

    config: EvaluateConfig
    given: Any
    reference: Any
    own: "nn.Module | str | None"
    data: str
    random_init: bool


def measure(asked: Asked) -> EvaluateResult:
    """Let the evaluator of the protocols measure.

    Raises:
        UserError: something that does not go together.
    """
    return EVALUATORS[asked.config.protocols[0]](asked)


def _on_backbone(asked: Asked) -> EvaluateResult:
    """Protocols that look at features, or train from a backbone."""
    from vistill.evaluation.metrics import summarize

    config, measured, source = asked.config, *_backbone(asked)
    clips = clips_of(config, measured, source, config.finetune.recipe)
    if clips is not None:
        config = config.model_copy(update=clips._asdict())
    else:
        config = as_trained(config, source)
    scores: tuple[Score, ...] = ()
    detection: tuple[DetectionScore, ...] = ()
    if "detection" in config.protocols:
        detection = detect(config, measured, clips, asked.data)
    else:
        scores = classify(config, measured, clips, source)
    return EvaluateResult(
        config=config.model_dump(mode="json"),
        weights=measured.origin,
        scores=scores,
        summaries=tuple(summarize(scores)),
        detection=detection,
    )


def _backbone(asked: Asked) -> "tuple[Backbone, str]":
    from vistill.models.build import load_backbone

    # An object is left as it is: its copies are resized.
    size = asked.config.image_size if isinstance(asked.reference, str) else None
    model = load_backbone(asked.reference, image_size=size, into=asked.own).eval()
    if asked.random_init:
        model = fresh(model, asked.config.seeds[0], asked.own)
    else:
        require_trained(model, asked.given, or_say="--random-init")
    named = asked.reference if isinstance(asked.reference, str) else "a model given as an object"
    return model, named


def _by_text(asked: Asked) -> EvaluateResult:
    """Protocols of a model that reads."""
    from vistill.models.joint import load_joint
    from vistill.runs.retrieving import choose, retrieve

    (protocol,) = asked.config.protocols
    model = load_joint(asked.reference) if isinstance(asked.reference, str) else None
    if model is None:
        raise UserError(
            f"{protocol} needs a model that reads text, and {asked.given} does not; give "
            "open_clip/NAME:TAG, hf/NAME:pretrained or hf/FOLDER of CLIP, SigLIP and the like, a "
            "run of umt_multimodal, or file:PATH,tokenizer=NAME of UMT's second stage"
        )
    if not asked.random_init:
        require_trained(model, asked.given, or_say="--random-init")
    elif not model.untrained:
        raise UserError(
            f"{protocol} measures {asked.given} as it was trained; leave out --random-init"
        )
    config = _with_frames(asked.config, model)
    if "rerank" in config.retrieval.model_fields_set and not model.matches:
        raise UserError(
            f"retrieval.rerank={config.retrieval.rerank} is for a matching head, which "
            f"{asked.given} has not; leave it out"
        )
    found: list[RetrievalScore] = []
    choices: list[ChoiceScore] = []
    if protocol == "retrieval":
        found, broken = retrieve(config, model, asked.data)
    else:
        choices, broken = choose(config, model, asked.data)
    return EvaluateResult(
        config=config.model_dump(mode="json"),
        weights=model.origin,
        scores=(),
        summaries=(),
        retrieval=tuple(found),
        choices=tuple(choices),
        broken=tuple(broken),
    )


def _by_questions(asked: Asked) -> EvaluateResult:
    """Questions, of a model that was trained on some."""
    from vistill.models.joint_umt import umt_answers
    from vistill.models.text.saved import load_answers
    from vistill.runs.answering import answer

    kind, _, place = str(asked.reference).partition(":")
    model = None
    if kind == "run":
        model = load_answers(Path(place))
    elif kind == "file" and ",tokenizer=" in place:
        model = umt_answers(place)
    if model is None:
        raise UserError(
            f"questions needs a run of umt_questions, and {asked.given} is none: train one on "
            "questions and answers first, or give file:PATH,tokenizer=NAME of UMT's published ones"
        )
    if not model.answers and asked.config.questions.answers is None:
        raise UserError(
            f"{asked.given} has no list of answers to choose from: questions.answers=FILE"
        )
    if asked.random_init:
        raise UserError(f"questions asks {asked.given} as it was trained; leave out --random-init")
    config = _with_frames(asked.config, model)
    score, broken = answer(config, model, asked.data)
    return EvaluateResult(
        config=config.model_dump(mode="json"),
        weights=model.origin,
        scores=(),
        summaries=(),
        answers=score,
        broken=tuple(broken),
    )


def _with_frames(config: EvaluateConfig, model: "JointModel | UMTAnswers") -> EvaluateConfig:
    """The settings with the frames of a clip, those of the model where they say none; None for
    pictures."""
    if config.frames is not None:
        model.take_frames(config.frames)
    frames = config.frames or (model.num_frames if model.num_frames > 1 else None)
    return config.model_copy(update={"frames": frames})


EVALUATORS: Mapping[str, Callable[[Asked], EvaluateResult]] = {
    **dict.fromkeys(("knn", "linear", "finetune", "test", "detection"), _on_backbone),
    **dict.fromkeys(("retrieval", "multiple-choice"), _by_text),
    "questions": _by_questions,
}
"""By protocol; the options of one stand in its section of the settings."""


def classify(
    config: EvaluateConfig, model: "Backbone", clips: ClipSettings | None, reference: str
) -> "tuple[Score, ...]":
    """Scores of the protocols that classify, or of a head that was trained before."""
    from vistill.data import Source
    from vistill.evaluation.evaluate import evaluate_backbone
    from vistill.evaluation.saved_classifier import read_head, score_saved

    media: Literal["image", "video"] = "image" if clips is None else "video"
    assert config.train is not None

    def opened(path: str) -> Source:
        return open_samples(config, path, media)

    if "test" in config.protocols:
        source = opened(config.test or config.train)
        return (score_saved(model, read_head(reference), source, config, clips=clips),)
    test = None if config.test is None else opened(config.test)
    starts = "finetune" in config.protocols and config.finetune.head != "fresh"
    head = read_head(reference) if starts else None
    train = opened(config.train)
    return tuple(evaluate_backbone(model, train, test, config, clips=clips, head=head))


def detect(
    config: EvaluateConfig, model: "Backbone", clips: ClipSettings | None, folder: str
) -> "tuple[DetectionScore, ...]":
    """Scores of action detection on AVA's kind of `folder`.

    Raises:
        UserError: a backbone of pictures, or a setting without use here.
    """
    if clips is None:
        raise UserError(f"detection needs a backbone of clips; {model.origin} takes pictures")
    if config.root is not None:
        raise UserError(
            f"root={config.root} is where the paths of lists start, and detection looks for its "
            "videos in detection.videos"
        )
    from vistill.evaluation.detection.dataset import open_detection
    from vistill.evaluation.detection.detect import evaluate_detection

    data = open_detection(Path(folder), config.detection)
    say_notes(folder, data.notes)
    return tuple(evaluate_detection(model, data, config, clips))


def fresh(model: "Backbone", seed: int, own: "nn.Module | str | None") -> "Backbone":
    """The same architecture with weights that nobody trained, drawn from `seed`.

    Raises:
        UserError: only the user can build it.
    """
    import torch

    from vistill.models.adapters.own_modules import given_back, object_facts
    from vistill.models.build import rebuild

    torch.manual_seed(seed)
    if model.build is not None:
        made = rebuild(model.build)
    elif isinstance(own, str):
        made = given_back(own, object_facts(model), Path())
    else:
        raise UserError(
            "a module of yours given as an object cannot be built afresh; give the function that "
            "makes it: model=FILE.py:NAME"
        )
    made.normalization = model.normalization
    return made
