"""How fresh weights are drawn: MAE's way and feature distillation's (spec tinymim 2, fd 3.3)."""

import re

import torch
from torch import nn

_RESIDUAL = re.compile(r"blocks\.(\d+)\.(?:attn\.proj|mlp\.fc2)\.weight$")


def xavier(model: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform matrices, class token N(0, 0.02²).

    VideoMAE's is the same but for the embedding of tubes, which is torch's own (spec amd 9).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    weight = model.get_parameter("patch_embed.proj.weight")
    if weight.dim() == 4:
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
    for name in ("cls_token", "dist_token"):
        token = getattr(model, name, None)
        if token is not None:
            nn.init.normal_(token, std=0.02)


def truncated_normal(model: nn.Module, std: float = 0.02, bound: float = 0.02) -> None:
    """BEiT's initialisation: truncated normal matrices, tokens and learned positions.

    The output projections of block l (counted from 1 through all stages) are divided by √(2 l).
    The published student truncates at one standard deviation.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.trunc_normal_(module.weight, std=std, a=-bound, b=bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name in ("cls_token", "dist_token", "pos_embed"):
        token = getattr(model, name, None)
        if token is not None and token.requires_grad:
            nn.init.trunc_normal_(token, std=std, a=-bound, b=bound)
    blocks: dict[str, int] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _RESIDUAL.search(name):
                block = name.rsplit(".", 3)[0]
                number = blocks.setdefault(block, len(blocks) + 1)
                parameter.div_((2 * number) ** 0.5)
