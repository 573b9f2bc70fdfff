"""Both towers of open_clip's models, with its tokenizer."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vistill.image_size import height_width
from vistill.models.adapters.admission import in_one_sentence
from vistill.models.adapters.open_clip import known_weights, model_config, weight_file
from vistill.models.backbone import Normalization
from vistill.models.files.clip import CLIP_NORMALIZATION
from vistill.models.files.named_weights import load_named
from vistill.models.files.weight_files import prefixes_of, read_weights
from vistill.models.joint import JointModel
from vistill.models.quiet import HUB, quiet

_NOT_LEARNED = ("attn_mask", "input_resolution", "context_length", "vocab_size")
"""Beside the weights in OpenAI's files."""


class OpenClipJoint(JointModel):
    """A model of open_clip."""

    def __init__(self, name: str, weights: str) -> None:
        super().__init__()
        import open_clip

        tags = open_clip.list_pretrained_tags_by_model(name)
        known, config = known_weights(name, weights, tags), model_config(name)
        quick = known.get("quick_gelu", False) if weights in tags else False
        with quiet(HUB), in_one_sentence(f"open_clip/{name} cannot be built"):
            self.model = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick or config.get("quick_gelu", False),
            )
            self.tokenizer = open_clip.get_tokenizer(name)
        self.width = config["embed_dim"]
        self.image_size = height_width(config["vision_cfg"]["image_size"])
        self.normalization = CLIP_NORMALIZATION
        if known:
            self.normalization = Normalization(tuple(known["mean"]), tuple(known["std"]))
        self.untrained, self.origin = not weights, f"open_clip/{name}, random"
        if weights:
            path = weight_file(name, weights, tags)
            own = self.model.state_dict()
            state = read_weights(Path(path), prefixes=lambda s: prefixes_of(["logit_scale"], s))
            kept = {k: v.float() for k, v in state.state.items() if k not in _NOT_LEARNED}
            if "text.token_embedding.weight" in own and "token_embedding.weight" in kept:
                kept = {
                    k if k.startswith(("visual.", "logit_")) else f"text.{k}": v
                    for k, v in kept.items()
                }
            load_named(self.model, kept, f"open_clip/{name}:{weights}", optional=["logit_bias"])
            published = weights in (*tags, "pretrained")
            where = f"published weights {weights}" if published else f"file {os.path.abspath(path)}"
            self.origin = f"open_clip/{name}, {where}"

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        return self.model.encode_image(images)

    def read(self, sentences: Sequence[str]) -> Float[Tensor, "b e"]:
        device = self.model.logit_scale.device
        return self.model.encode_text(self.tokenizer(list(sentences)).to(device))


def open_clip_joint(name: str, weights: str) -> JointModel:
    """A model of open_clip with both towers; arguments and errors as of `open_clip_backbone`."""
    model_config(name)
    return OpenClipJoint(name, weights).eval()
