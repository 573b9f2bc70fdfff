"""Tiny models of the transformers library, one of every family that is read by its own names."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
CNN: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES: dict[str, dict[str, Any]] = {
    "vit": WIDE,
    "deit": WIDE,
    "beit": WIDE | {"use_relative_position_bias": True},
    "ijepa": WIDE,
    "vit_mae": WIDE | {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 32},
    "dinov2": WIDE,
    "dinov2_with_registers": WIDE | {"num_register_tokens": 3},
    "dinov3_vit": WIDE | {"num_register_tokens": 2},
    "clip": {"vision_config": WIDE, "text_config": TEXT},
    "clip_vision_model": WIDE,
    "siglip": {"vision_config": WIDE, "text_config": TEXT},
    "siglip_vision_model": WIDE,
    "siglip2_vision_model": WIDE | {"num_patches": 16},
    "swin": SWIN,
    "swinv2": SWIN,
    "resnet": CNN | {"embedding_size": 8, "layer_type": "basic", "image_size": 64},
    "regnet": CNN | {"embedding_size": 8, "groups_width": 8, "image_size": 64},
    "convnext": CNN | {"image_size": 64},
    "convnextv2": CNN | {"image_size": 64},
    "dinov3_convnext": CNN | {"image_size": 64},
}


def family(kind: str, folder: Path, *, classifier: bool = False, **changes: Any) -> nn.Module:
    """A random model of a family, whose signals are of order one, saved in `folder`."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.CONFIG_MAPPING[kind](**(SIZES[kind] | changes))
    model: Any = transformers.AutoModel.from_config(config)
    if classifier:
        found = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        model = (found[-1] if isinstance(found, tuple) else found)(config)
    model.eval()
    for name, parameter in model.named_parameters():
        if "position_embeddings" not in name and "norm" not in name:
            nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return model


def sight(model: Any) -> Any:
    """The part of a model that sees."""
    return getattr(model, "vision_model", model)
