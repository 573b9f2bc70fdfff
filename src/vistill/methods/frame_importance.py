"""Which places of a frame an image model attends to (UMT, section 3.1; spec umt 2)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.config.umt import AlignmentSection
from vistill.errors import UserError
from vistill.models.backbone import Backbone, Tap

_POOLS = ("attn_pool.latent", "head.probe", "attn_pool.query")
"""Parameters of a query that pools by attention, as timm, transformers and open_clip call it."""


def importance_tap(model: Backbone, config: AlignmentSection) -> Tap | None:
    """The signal that tells it; None where masks follow no attention.

    Raises:
        UserError: the model has no such signal.
    """
    if config.mask not in ("semantic", "attention"):
        return None
    wanted = config.importance or _usual(model)
    if wanted == "class_token":
        if "cls_attention" in model.taps and model.has_class_token:
            return Tap("cls_attention", model.depth)
        patches = "method.importance=patches, " if "qkv" in model.taps else ""
        raise UserError(
            f"method.mask={config.mask} follows the attention of the teacher's class token, and "
            f"this teacher has none; set {patches}method.mask=random or method.mask=tube"
        )
    if "qkv" not in model.taps:
        raise UserError(
            f"method.importance=patches follows queries and keys of the last block, and "
            f"{model.origin} shows none; set method.mask=random or method.mask=tube"
        )
    return Tap("qkv", model.depth)


def _usual(model: Backbone) -> Literal["class_token", "patches"]:
    pools = any(name.endswith(_POOLS) for name, _ in model.named_parameters())
    return "patches" if pools and not model.has_class_token else "class_token"


def importance_of(model: Backbone, tap: Tap, signal: Tensor) -> Float[Tensor, "f n"]:
    """Importance of every patch of every frame, mean over heads.

    Args:
        model: the teacher.
        tap: of `importance_tap`.
        signal: what the tap gives: attention of the class token `[F, M, N]`, or queries, keys and
            values `[F, N, 3, D]`, of which the attention that a patch gets from all of them on
            average is taken.
    """
    prefix = model.num_prefix_tokens
    if tap.kind == "cls_attention":
        return signal.float().mean(dim=1)[:, prefix:]
    heads = model.num_heads[tap.block - 1]
    queries, keys = (
        signal[:, :, part].float().unflatten(-1, (heads, -1)).transpose(1, 2) for part in (0, 1)
    )
    logits = queries[:, :, prefix:] @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return torch.softmax(logits, dim=-1)[..., prefix:].mean(dim=(1, 2))
