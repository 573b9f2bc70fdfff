"""Published weight files, recognised by their keys and loaded without unpickling code (spec 11)."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from vistill.errors import UserError
from vistill.models.vit import VisionTransformer

# The wrappers that MAE, TinyMIM, DeiT and their descendants put around a state dict.
_WRAPPERS = ("model", "state_dict", "module")
_PREFIXES = ("module.", "encoder.")
# Pre-training and classification parts that a backbone has no use for.
_DROPPED = ("decoder_", "mask_token", "head.", "fc_norm.")
# Heads of the published sizes; other widths get 64 channels a head.
_HEADS = {192: 3, 1280: 16}


class LoadedWeights(NamedTuple):
    """Weights of a plain ViT, and what in the file was left aside."""

    state: dict[str, Tensor]
    dropped: list[str]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or PyTorch file, unwrapped and without prefixes.

    PyTorch files are read with `weights_only=True`; of other classes only `argparse.Namespace`
    (the training arguments in MAE's files) may occur.

    Raises:
        UserError: if the file is missing, unreadable, unsafe or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read weights from {path}: {reason}") from error
    while isinstance(content, dict):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict")
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors")
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def encoder_weights(state: dict[str, Tensor]) -> LoadedWeights:
    """Split a state dict into the plain ViT's weights and the rest."""
    dropped = [name for name in state if name.startswith(_DROPPED)]
    return LoadedWeights({k: v for k, v in state.items() if k not in dropped}, dropped)


def vit_from_state(
    state: dict[str, Tensor], source: str, num_heads: int | None = None
) -> VisionTransformer:
    """A ViT with the sizes that the tensors tell and their values.

    Args:
        state: weights under the names of MAE and timm.
        source: where they come from, for messages.
        num_heads: heads of every block, which no tensor tells; None: the published count of the
            width (192: 3, 1280: 16), else 64 channels a head.

    Raises:
        UserError: if this is no plain ViT; missing and unexpected names are listed.
    """
    weights, _ = encoder_weights(state)
    missing = [k for k in ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight") if k not in state]
    if missing:
        raise UserError(
            f"{source} is not a plain ViT of the MAE or TinyMIM layout: {_listed(missing)} "
            f"missing; it holds {_listed(state)}"
        )
    if "dist_token" in weights:
        raise UserError(
            f"{source} holds a distillation token (TinyMIM*), which vistill does not build"
        )
    kernel = weights["patch_embed.proj.weight"]
    embed_dim, patch_size = kernel.shape[0], kernel.shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    class_token = "cls_token" in weights
    table = weights.get("pos_embed")
    patches = 14 * 14 if table is None else table.shape[1] - int(class_token)
    side = round(patches**0.5)
    if side * side != patches:
        raise UserError(
            f"{source}: pos_embed has {patches} patch positions, which is no square grid"
        )
    model = VisionTransformer(
        image_size=side * patch_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads or _HEADS.get(embed_dim, max(1, embed_dim // 64)),
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        class_token=class_token,
        position="none" if table is None else "sincos",
        layer_scale=1.0 if "blocks.0.ls1.gamma" in weights else None,
    )
    load_named(model, weights, source, optional=("norm.weight", "norm.bias"))
    return model


def load_named(
    model: torch.nn.Module,
    weights: dict[str, Tensor],
    source: str,
    optional: Iterable[str] = (),
) -> None:
    """Load weights strictly and report every mismatch by name.

    Args:
        optional: names that may be missing (fine-tuned files have no final norm).

    Raises:
        UserError: if names or shapes differ.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights and name not in set(optional)]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    if shapes:
        problems.append(_listed(shapes))
    if problems:
        raise UserError(f"{source} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
