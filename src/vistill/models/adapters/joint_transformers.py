"""Both towers of the transformers library's models of pictures and text, with their tokenizers."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.errors import UserError, first_line
from vistill.image_size import height_width
from vistill.models.adapters.admission import in_one_sentence
from vistill.models.adapters.processors import shown_by_processor
from vistill.models.adapters.transformers import place_of
from vistill.models.adapters.transformers_library import (
    load_module,
    num_channels,
    read_config,
    usual_processing,
    without_remarks,
)
from vistill.models.joint import JointModel
from vistill.models.quiet import HUB, quiet


class TransformersJoint(JointModel):
    """CLIP, SigLIP and what else has `get_image_features` and `get_text_features`."""

    def __init__(self, name: str, config: Any, kind: Any, source: str, load: bool) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        if load:
            self.model = load_module(kind, config, source, name)
        else:
            with in_one_sentence(f"hf/{name}, a {config.model_type}, cannot be built"):
                self.model = kind(config)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:
            raise UserError(
                f"hf/{name} has no tokenizer that can be read: {first_line(error)}"
            ) from error
        shown = shown_by_processor(source, name, num_channels(config, name))
        self.normalization = (shown or usual_processing(config.vision_config)).normalization
        size = config.vision_config.image_size
        self.image_size = height_width(size if isinstance(size, int) else tuple(size))
        self.longest = config.text_config.max_position_embeddings
        # SigLIP learned sentences with all of their padding, which it does not mask.
        self.padded = "siglip" in config.model_type
        self.origin = f"hf/{source}, {'its weights' if load else 'random'}"
        self.untrained = not load
        with torch.no_grad(), in_one_sentence(f"hf/{name}, a {config.model_type}, cannot be used"):
            self.width = self.read(["a"]).shape[1]
            self.see(torch.zeros(1, 3, *self.image_size))

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        return _pooled(self.model.get_image_features(pixel_values=images))  # type: ignore[operator]

    def read(self, sentences: Sequence[str]) -> Float[Tensor, "b e"]:
        words = self.tokenizer(
            list(sentences),
            padding="max_length" if self.padded else True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        if self.padded:
            words.pop("attention_mask", None)
        device = next(self.model.parameters()).device
        return _pooled(self.model.get_text_features(**words.to(device)))  # type: ignore[operator]


def _pooled(output: Any) -> Tensor:
    """Versions of the library give the embedding itself, or an output that holds it."""
    return output if isinstance(output, Tensor) else output.pooler_output


def transformers_joint(name: str, *, pretrained: bool) -> JointModel | None:
    """A model of a folder or of the hub with both towers; None where it has but one."""
    from transformers import MODEL_MAPPING

    source, stored = place_of(name, "pretrained" if pretrained else "own")
    with quiet(HUB), without_remarks():
        config = read_config(source, name)
        kind: Any = MODEL_MAPPING.get(type(config), None)
        if not (hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")):
            return None
        return TransformersJoint(name, config, kind, source, pretrained or stored).eval()
