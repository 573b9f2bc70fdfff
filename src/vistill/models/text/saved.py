"""A tower that reads beside an exported backbone: `text.safetensors`, `text.json` and
`tokenizer.json`; and both together as one model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

from safetensors.torch import load_file, save
from torch import nn

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.models.export import find_export, read_backbone
from vistill.models.joint_umt import UMTJoint
from vistill.models.text.answering import Answerer, UMTAnswers
from vistill.models.text.bert import BertSizes, SplitBert
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer

FORMAT = "vistill-text/1"
_WEIGHTS, _DESCRIPTION = "text.safetensors", "text.json"
TOKENIZER = "tokenizer.json"
_TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def save_text(
    reader: VideoText | Answerer,
    folder: Path,
    *,
    tokenizer: str,
    length: int,
    answers: Sequence[str] = (),
    answer_length: int = 0,
) -> None:
    """Write what reads beside a backbone; each file appears whole or not at all.

    Args:
        reader: the tower with its projections and heads, or with what writes answers.
        folder: of the exported backbone.
        tokenizer: text of a `tokenizer.json`.
        length: tokens of every sentence or question.
        answers: that it may choose from.
        answer_length: tokens of each.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in reader.state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith(_TIED)}
    described: dict[str, Any] = {
        "format": FORMAT,
        "sizes": asdict(reader.text.sizes),
        "length": length,
    }
    if isinstance(reader, Answerer):
        described |= {"answers": list(answers), "answer_length": answer_length}
    else:
        decays = reader.temperature.dim() > 0
        described |= {"embedding": reader.text_proj.out_features, "decay_temperature": decays}
    write_atomic(folder / TOKENIZER, tokenizer)
    write_atomic(folder / _WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / _DESCRIPTION, json.dumps(described, indent=2) + "\n")


def load_video_text(folder: Path) -> UMTJoint | None:
    """The student of a run or export with its tower that reads; None where it has none.

    Raises:
        UserError: there is no such run, or its files do not fit together.
    """
    found = _Saved.of(folder)
    if found is None or "embedding" not in found.told:
        return None
    told = found.told
    joint = VideoText(
        SplitBert(BertSizes(**told["sizes"])),
        told["embedding"],
        decay_temperature=told["decay_temperature"],
    )
    found.load(joint)
    model = UMTJoint(found.backbone, joint, found.tokenizer(told["length"]))
    model.origin, model.untrained = found.backbone.origin, found.backbone.untrained
    return model.eval()


def load_answers(folder: Path) -> UMTAnswers | None:
    """The student of a run or export with what answers questions; None where it has none.

    Raises:
        UserError: as of `load_video_text`.
    """
    found = _Saved.of(folder)
    if found is None or "answers" not in found.told:
        return None
    told = found.told
    answerer = Answerer(SplitBert(BertSizes(**told["sizes"])))
    found.load(answerer)
    question, answer = (found.tokenizer(told[key]) for key in ("length", "answer_length"))
    model = UMTAnswers(found.backbone, answerer, question, answer, tuple(told["answers"]))
    model.origin, model.untrained = found.backbone.origin, found.backbone.untrained
    return model.eval()


def load_reader(folder: Path) -> VideoText | Answerer | None:
    """What reads beside the student of a run or export; None where nothing does.

    Raises:
        UserError: as of `load_video_text`.
    """
    joint = load_video_text(folder)
    if joint is not None:
        return joint.joint
    answers = load_answers(folder)
    return None if answers is None else answers.answerer


class _Saved(NamedTuple):
    """What `save_text` wrote beside a backbone."""

    place: Path
    backbone: VisionTransformer
    told: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        place = find_export(folder)
        if not (place / _DESCRIPTION).is_file():
            return None
        backbone = read_backbone(place)
        try:
            told = json.loads((place / _DESCRIPTION).read_text())
            if told["format"] != FORMAT:
                raise ValueError(f"its format is {told['format']!r}")
        except Exception as error:
            raise _unreadable(place, error) from error
        assert isinstance(backbone, VisionTransformer)
        return cls(place, backbone, told)

    def load(self, reader: nn.Module) -> None:
        try:
            state = load_file(self.place / _WEIGHTS)
            own = {name for name in reader.state_dict() if not name.endswith(_TIED)}
            if odd := own ^ state.keys():
                raise ValueError(f"{min(odd)} is missing or not known")
            reader.load_state_dict(state, strict=False)
        except Exception as error:
            raise _unreadable(self.place, error) from error

    def tokenizer(self, length: int) -> Tokenizer:
        return Tokenizer(str(self.place / TOKENIZER), length)


def _unreadable(place: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the text tower in {place}: {error}")
