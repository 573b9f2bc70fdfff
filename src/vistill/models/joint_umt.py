"""UMT's second stage as it is published: a clip's tokens, a sentence's states, their common space
and the head that says whether they belong together (spec umt 9, 11, 12)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Normalization, Tap
from vistill.models.files.named_weights import load_named
from vistill.models.files.weight_files import read_weights
from vistill.models.joint import JointModel, Sentences
from vistill.models.text.bert import BertSizes, SplitBert, own_bert_names, usual_fusion_layer
from vistill.models.text.matching import Looked, fuse_looked, look
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer

_HEAD = 64
"""Channels of an attention head in all released models."""
_LENGTH = 32
_LEFT = ("clip_teacher.", "vision_encoder.clip_decoder.", "text_encoder.cls.")
_ENCODER = "vision_encoder.encoder."
_OWN = {"itm_head": "match_head", "temp": "temperature"}
"""Parts that go by another name here."""


class UMTJoint(JointModel):
    """Both towers and the matching head.

    Args:
        vision: without class token, tubes of one frame.
        joint: reads sentences, looks at the vision's tokens, and joins both in one space.
        tokenizer: cuts sentences.
    """

    matches = True

    def __init__(self, vision: VisionTransformer, joint: VideoText, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.vision, self.joint, self._tokenizer = vision, joint, tokenizer
        self.width = joint.text_proj.out_features
        self.temperature = float(joint.temperature.detach().reshape(()))
        self.image_size, self.num_frames = vision.image_size, vision.num_frames
        self.normalization, self.token_width = vision.normalization, vision.width

    def see_tokens(
        self, images: Float[Tensor, "b 3 *size"]
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b n d"]]:
        """An embedding of every frame, and the tokens that the matching head looks at.

        A model of clips sees a picture as its first frame.
        """
        tap, vision, visible = Tap("norm", self.vision.depth), self.vision, None
        if images.dim() == 4 and vision.tubelet_size is not None:
            images, patches = images[:, :, None], vision.grid[0] * vision.grid[1]
            visible = torch.arange(patches, device=images.device).expand(len(images), -1)
        tokens = vision.tap(images, [tap], visible=visible)[tap][:, vision.num_prefix_tokens :]
        slots = 1 if images.dim() == 4 else images.shape[2]
        return self.joint.pooled(tokens, slots), tokens

    def take_frames(self, frames: int) -> None:
        if self.num_frames > 1 and frames != self.num_frames:
            try:
                self.vision.resize(self.vision.image_size, frames)
            except ValueError as error:
                raise UserError(f"frames={frames} does not suit {self.origin}: {error}") from error
            self.num_frames = frames

    def see_frames(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b t e"]:
        return self.see_tokens(images)[0]

    def see(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b e"]:
        return nn.functional.normalize(self.see_frames(images), dim=-1).mean(dim=1)

    def read(self, sentences: Sequence[str]) -> Float[Tensor, "b e"]:
        return self.read_states(sentences).embeddings

    def read_states(self, sentences: Sequence[str]) -> Sentences:
        text, mask = self._tokenizer.cleaned(sentences)
        device = self.joint.temperature.device
        return self.read_ids(text.to(device), mask.to(device))

    def read_ids(self, text: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Sentences:
        """The same of token ids."""
        states, embeddings = self.joint.sentences(text, mask)
        return Sentences(embeddings, states, mask)

    def look(self, tokens: Float[Tensor, "1 n d"]) -> list[Looked]:
        return look(self.joint.text, tokens)

    def match(self, looked: list[Looked], sentences: Sentences) -> Float[Tensor, "b 2"]:
        fused = fuse_looked(self.joint.text, sentences.states, sentences.mask, looked)
        return self.joint.match_head(fused[:, 0])


def umt_joint(reference: str) -> UMTJoint:
    """`PATH,tokenizer=NAME`: a published file of the second stage, or one of its fine-tunings.

    Args:
        reference: the tokenizer is a name of the hub, a folder, or a `vocab.txt`; behind further
            commas `frames=N` (4), `image_size=N` (224), `num_heads=N`, `text_heads=N`,
            `fusion_layer=N` where they are not the released models'.

    Raises:
        UserError: the file holds no such model, or the tokenizer cannot be had.
    """
    path, *words = reference.split(",")
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    known = ("tokenizer", "frames", "image_size", "num_heads", "text_heads", "fusion_layer")
    for key in given:
        if key not in known:
            raise UserError(f"file:{reference}: {key!r} is none of {', '.join(known)}")
    numbers = {}
    for key in known[1:]:
        if key in given:
            if not given[key].isdecimal():
                raise UserError(f"file:{reference}: {key} must be a number, not {given[key]!r}")
            numbers[key] = int(given[key])
    state = read_weights(Path(path), prefixes=_whole).state
    if "vision_proj.weight" not in state or "itm_head.weight" not in state:
        raise UserError(f"{path} holds no second stage of UMT: no vision_proj and itm_head")
    made = joint_of_state(state, path, Tokenizer(given["tokenizer"], _LENGTH), numbers)
    made.origin = f"file {path}"
    return made


def _whole(_: Mapping[str, Tensor]) -> list[str]:
    """Nothing stands in front of the names of the parts."""
    return [""]


def joint_of_state(
    state: Mapping[str, Tensor], path: str, tokenizer: Tokenizer, numbers: Mapping[str, int]
) -> UMTJoint:
    """The model of published weights; `numbers` as the options of `umt_joint`.

    Raises:
        UserError: names or shapes are not those of the second stage.
    """
    state = {name: value for name, value in state.items() if not name.startswith(_LEFT)}
    patches = state[f"{_ENCODER}patch_embed.proj.weight"]
    depth = _layers(state, f"{_ENCODER}blocks.")
    vision = VisionTransformer(
        image_size=numbers.get("image_size", 224),
        patch_size=patches.shape[-1],
        embed_dim=patches.shape[0],
        depth=depth,
        num_heads=numbers.get("num_heads", patches.shape[0] // _HEAD),
        class_token=False,
        tubelet_size=1,
        num_frames=numbers.get("frames", 4),
        qkv_bias="no_key",
        normalization=Normalization(),
    )
    words = own_bert_names({k.removeprefix("text_encoder."): v for k, v in state.items()
                            if k.startswith("text_encoder.")})  # fmt: skip
    layers = _layers(words, "encoder.layer.")
    table = words["embeddings.word_embeddings.weight"]
    bert = SplitBert(
        BertSizes(
            vocabulary=table.shape[0],
            width=table.shape[1],
            layers=layers,
            fusion_layer=numbers.get("fusion_layer", usual_fusion_layer(layers)),
            heads=numbers.get("text_heads", table.shape[1] // _HEAD),
            positions=words["embeddings.position_embeddings.weight"].shape[0],
            vision_width=vision.width,
            hidden=words["encoder.layer.0.intermediate.dense.weight"].shape[0],
        )
    )
    del bert.cls  # words are not asked for
    joint = VideoText(bert, state["vision_proj.weight"].shape[0], decay_temperature=False)
    both = nn.ModuleDict({"vision": vision, "joint": joint})
    named = {f"joint.text.{name}": value for name, value in words.items()}
    for name, value in state.items():
        if name.startswith(_ENCODER):
            named[f"vision.{name.removeprefix(_ENCODER)}"] = value
        elif not name.startswith("text_encoder."):
            part, _, rest = name.removeprefix("vision_encoder.").partition(".")
            own = ".".join(filter(None, ("joint", _OWN.get(part, part), rest)))
            named[own] = value
    tables = [name for name in both.state_dict() if name.endswith("pos_embed")]
    load_named(both, {k: v.float() for k, v in named.items()}, path, optional=tables)
    return UMTJoint(vision, joint, tokenizer).eval()


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name.removeprefix(prefix).partition(".")[0])
               for name in state if name.startswith(prefix)}  # fmt: skip
    return 1 + max(numbers, default=-1)
