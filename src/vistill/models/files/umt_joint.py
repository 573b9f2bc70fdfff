"""UMT's second stage under the names of its published files, in and out (spec umt 12)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Normalization
from vistill.models.files.named_weights import load_named
from vistill.models.files.umt import published_umt_encoder
from vistill.models.text.bert import BertSizes, SplitBert, own_bert_names, usual_fusion_layer
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer

_HEAD = 64
"""Channels of an attention head in all released models."""
_LEFT = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_decoder.")
ENCODER = "vision_encoder.encoder."
TEXT = "text_encoder."
_OWN = {"itm_head": "match_head", "temp": "temperature"}
"""Parts that go by another name here."""
_THEIRS = {
    "match_head": "itm_head",
    "temperature": "temp",
    "pool_norm": "vision_encoder.pool_norm",
}
NUMBERS = ("frames", "image_size", "num_heads", "text_heads", "fusion_layer")
"""What no tensor tells."""


class Towers(NamedTuple):
    """A tower that sees clips, and what reads beside it."""

    vision: VisionTransformer
    joint: VideoText


def towers_of_state(state: Mapping[str, Tensor], path: str, numbers: Mapping[str, int]) -> Towers:
    """The towers of published weights.

    Args:
        state: of the whole model; its teacher, decoders of the alignment and of answers are left.
        path: where it comes from, for messages.
        numbers: of `NUMBERS` those that are not the released models'.

    Raises:
        UserError: names or shapes are not those of the second stage.
    """
    if "vision_proj.weight" not in state or "itm_head.weight" not in state:
        raise UserError(f"{path} holds no second stage of UMT: no vision_proj and itm_head")
    state = {name: value for name, value in state.items() if not name.startswith(_LEFT)}
    vision = vision_of_state(state, numbers)
    words = own_bert_names(part_of(state, TEXT))
    bert = bert_of_state(words, numbers, vision.width)
    joint = VideoText(bert, state["vision_proj.weight"].shape[0], decay_temperature=False)
    both = nn.ModuleDict({"vision": vision, "joint": joint})
    named = {f"joint.text.{name}": value for name, value in words.items()}
    for name, value in state.items():
        if name.startswith(ENCODER):
            named[f"vision.{name.removeprefix(ENCODER)}"] = value
        elif not name.startswith(TEXT):
            part, _, rest = name.removeprefix("vision_encoder.").partition(".")
            own = ".".join(filter(None, ("joint", _OWN.get(part, part), rest)))
            named[own] = value.reshape(()) if part == "temp" else value
    tables = [name for name in both.state_dict() if name.endswith("pos_embed")]
    load_named(both, {k: v.float() for k, v in named.items()}, path, optional=tables)
    return Towers(vision, joint)


def vision_of_state(state: Mapping[str, Tensor], numbers: Mapping[str, int]) -> VisionTransformer:
    """A tower of the sizes of published weights, which are not loaded yet."""
    patches = state[f"{ENCODER}patch_embed.proj.weight"]
    return VisionTransformer(
        image_size=numbers.get("image_size", 224),
        patch_size=patches.shape[-1],
        embed_dim=patches.shape[0],
        depth=_layers(state, f"{ENCODER}blocks."),
        num_heads=numbers.get("num_heads", patches.shape[0] // _HEAD),
        class_token=False,
        tubelet_size=1,
        num_frames=numbers.get("frames", 4),
        qkv_bias="no_key",
        normalization=Normalization(),
    )


def bert_of_state(
    words: Mapping[str, Tensor], numbers: Mapping[str, int], vision_width: int
) -> SplitBert:
    """The same of the tower that reads.

    Args:
        words: its weights under the names of `SplitBert`.
        numbers: see `towers_of_state`.
        vision_width: of the tokens that it looks at.
    """
    layers, table = _layers(words, "encoder.layer."), words["embeddings.word_embeddings.weight"]
    return SplitBert(
        BertSizes(
            vocabulary=table.shape[0],
            width=table.shape[1],
            layers=layers,
            fusion_layer=numbers.get("fusion_layer", usual_fusion_layer(layers)),
            heads=numbers.get("text_heads", table.shape[1] // _HEAD),
            positions=words["embeddings.position_embeddings.weight"].shape[0],
            vision_width=vision_width,
            hidden=words["encoder.layer.0.intermediate.dense.weight"].shape[0],
            words="cls.predictions.transform.dense.weight" in words,
        )
    )


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands behind a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def published_towers(vision: VisionTransformer, joint: VideoText) -> dict[str, Tensor]:
    """The inverse of `towers_of_state`: of a model that guesses words under the names of the
    pre-training, of others under those of retrieval.

    Raises:
        UserError: the vision is none of UMT's kind.
    """
    state = {f"vision_encoder.{k}": v for k, v in published_umt_encoder(vision).items()}
    inner = f"{TEXT}bert." if joint.text.sizes.words else TEXT
    for name, value in joint.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "text":
            state[(TEXT if rest.startswith("cls.") else inner) + rest] = value
        else:
            state[".".join(filter(None, (_THEIRS.get(part, part), rest)))] = value
    state["temp"] = state["temp"].reshape(())
    positions = torch.arange(joint.text.sizes.positions)[None]
    state[f"{inner}embeddings.position_ids"] = positions
    return state


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    found = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    return 1 + max((int(name.partition(".")[0]) for name in found), default=-1)
