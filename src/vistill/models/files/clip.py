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
    bare = {"class_embedding", "transformer.resblocks.0.ln_1.weight"} <= state.keys()
    return bare or "visual.class_embedding" in state


def clip_projection(state: dict[str, Tensor]) -> Tensor | None:
    """From the width of the tower to the space of pictures and text; None where there is none."""
    return state.get("visual.proj", state.get("proj"))


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower under vistill's names; the text tower and the projection are left out.

    UMT's files hold the tower alone, without a prefix, and may have a time axis of one frame.
    """
    tower = "visual." if "visual.class_embedding" in state else ""
    renamed = {}
    for name, value in state.items():
        inner = name.removeprefix(tower)
        for pattern, replacement in _RULES:
            new, found = re.subn(pattern, replacement, inner)
            if found and name.startswith(tower):
                # Released weights are half precision.
                renamed[new] = value.to(torch.promote_types(value.dtype, torch.float32))
    kernel = renamed["patch_embed.proj.weight"]
    if kernel.dim() == 5 and kernel.shape[2] == 1:
        renamed["patch_embed.proj.weight"] = kernel[:, :, 0]
    renamed["cls_token"] = renamed["cls_token"][None, None]
    renamed["pos_embed"] = renamed["pos_embed"][None]
    return renamed
