"""UMT's models of questions under the names of its published files, in and out (spec umt 12)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.files.named_weights import load_named
from vistill.models.files.umt import published_umt_encoder
from vistill.models.files.umt_joint import ENCODER, TEXT, bert_of_state, part_of, vision_of_state
from vistill.models.text.answering import Answerer
from vistill.models.text.bert import own_bert_names
from vistill.models.vit import VisionTransformer

WRITER = "text_decoder."


class Asked(NamedTuple):
    """A tower that sees clips, and what answers questions about them."""

    vision: VisionTransformer
    answerer: Answerer


def asked_of_state(state: Mapping[str, Tensor], path: str, numbers: Mapping[str, int]) -> Asked:
    """The model of published weights, without what only pre-training and retrieval use.

    Args:
        state, path, numbers: see `umt_joint.towers_of_state`.

    Raises:
        UserError: names or shapes are not those of a model of questions.
    """
    written = own_bert_names(part_of(state, WRITER))
    read = {
        name: value
        for name, value in own_bert_names(part_of(state, TEXT)).items()
        if not name.startswith("cls.")
    }
    if not written or not read:
        missing = TEXT if written else WRITER
        raise UserError(f"{path} holds no model of UMT for questions: no {missing.rstrip('.')}")
    vision = vision_of_state(state, numbers)
    answerer = Answerer(bert_of_state(read, numbers, vision.width))
    both = nn.ModuleDict({"vision": vision, "text": answerer.text, "writer": answerer.writer})
    named = {
        f"{part}.{name}": value.float()
        for part, found in (
            ("vision", part_of(state, ENCODER)),
            ("text", read),
            ("writer", written),
        )
        for name, value in found.items()
    }
    load_named(both, named, path, optional=["vision.pos_embed"])
    return Asked(vision, answerer)


def published_asked(vision: VisionTransformer, answerer: Answerer) -> dict[str, Tensor]:
    """The inverse of `asked_of_state`.

    Raises:
        UserError: the vision is none of UMT's kind.
    """
    state = {f"vision_encoder.{k}": v for k, v in published_umt_encoder(vision).items()}
    for prefix, inner, tower in (
        (TEXT, TEXT, answerer.text),
        (WRITER, f"{WRITER}bert.", answerer.writer),
    ):
        for name, value in tower.state_dict().items():
            state[(prefix if name.startswith("cls.") else inner) + name] = value
        positions = torch.arange(tower.sizes.positions)[None]
        state[f"{inner}embeddings.position_ids"] = positions
    return state
