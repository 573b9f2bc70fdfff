"""OpenAI's names of CLIP's image tower, to vistill's (spec fd 2.3)."""

import re

import torch
from torch import Tensor

from vistill.models.backbone import Normalization

CLIP_NORMALIZATION = Normalization(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
_RULES = (
    (r"^conv1\.weight$", "patch_embed.proj.weight"),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
)


def is_clip(state: dict[str, Tensor]) -> bool:
    """Whether a state dict holds CLIP's vision transformer under OpenAI's names."""
    return "visual.class_embedding" in state


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower under vistill's names; the text tower and the projection are left out."""
    renamed = {}
    for name, value in state.items():
        inner = name.removeprefix("visual.")
        for pattern, replacement in _RULES:
            new, found = re.subn(pattern, replacement, inner)
            if found and inner != name:
                # Released weights are half precision.
                renamed[new] = value.to(torch.promote_types(value.dtype, torch.float32))
    renamed["cls_token"] = renamed["cls_token"][None, None]
    renamed["pos_embed"] = renamed["pos_embed"][None]
    return renamed
