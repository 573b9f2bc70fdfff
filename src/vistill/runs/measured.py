"""What an evaluation measures: a backbone, or a model that reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.reference import require_trained

if TYPE_CHECKING:
    from torch import nn

    from vistill.image_size import ImageSize
    from vistill.models.backbone import Backbone
    from vistill.models.joint import JointModel
    from vistill.models.text.answering import UMTAnswers

M = TypeVar("M")
_ANSWERED = ("knn", "linear", "test", "robustness")
"""Protocols that train nothing of the model."""


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

    @property
    def named(self) -> str:
        """The reference in words."""
        return self.reference if isinstance(self.reference, str) else "a model given as an object"


@dataclass(frozen=True)
class Named(Generic[M]):
    """A model that was loaded.

    Attributes:
        model: the model.
        reference: where its file or its run is.
        given: as the user named it.
    """

    model: M
    reference: str
    given: Any


def backbone_of(asked: Asked) -> "Backbone":
    """The backbone that was asked for, or the same architecture with fresh weights.

    Raises:
        UserError: its weights come from nowhere.
    """
    # An object is left as it is: its copies are resized.
    size = asked.config.image_size if isinstance(asked.reference, str) else None
    model = opened(asked.reference, size, asked.own)
    if model.answers_only:
        for protocol in asked.config.protocols:
            if protocol not in _ANSWERED:
                raise UserError(
                    f"{asked.given} only answers, and {protocol} trains it; give the model that it "
                    "was exported from"
                )
        if asked.random_init:
            raise UserError(f"{asked.given} has no fresh weights; leave out --random-init")
    if asked.random_init:
        return fresh(model, asked.config.seeds[0], asked.own)
    require_trained(model, asked.given, or_say="--random-init")
    return model


def opened(
    reference: Any, image_size: "ImageSize | None" = None, own: "nn.Module | str | None" = None
) -> "Backbone":
    """A backbone with its weights, or an exported ONNX file, which only answers.

    Raises:
        UserError: there is no such model.
    """
    from vistill.models.build import load_backbone
    from vistill.models.onnx_backbone import OnnxBackbone, onnx_folder

    folder = onnx_folder(reference)
    found = reference if folder is None else OnnxBackbone(folder)
    return load_backbone(found, image_size=image_size, into=own).eval()


def reader_of(asked: Asked) -> "JointModel":
    """The model of pictures and text that was asked for.

    Raises:
        UserError: it does not read.
    """
    from vistill.models.joint import load_joint

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
    return model


def answers_of(asked: Asked) -> "UMTAnswers":
    """The model that was asked for, which was trained on questions.

    Raises:
        UserError: it was not.
    """
    from vistill.models.joint_umt import umt_answers
    from vistill.models.text.saved import load_answers

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
    return model


def with_frames(config: EvaluateConfig, model: "JointModel | UMTAnswers") -> EvaluateConfig:
    """The settings with the frames of a clip, those of the model where they say none; None for
    pictures."""
    if config.frames is not None:
        model.take_frames(config.frames)
    frames = config.frames or (model.num_frames if model.num_frames > 1 else None)
    return config.model_copy(update={"frames": frames})


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
