"""Biases of queries, keys and values from one form into another: one vector for all three, two or
three vectors, or none. What a form has no place for must be zero."""

import torch
from torch import Tensor

from vistill.errors import UserError

_PARTS = ("q_bias", "k_bias", "v_bias")


def fit_biases(state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """`state` with the biases of every attention in the form in which `own` has them.

    Args:
        state: weights of the same network, under the same names but for these biases.
        own: those of the model that will hold them.
        source: where they come from, for the message.

    Raises:
        UserError: a bias that is not zero has no place.
    """
    fitted = dict(state)
    for name in state:
        if not name.endswith("attn.qkv.weight") or name not in own:
            continue
        place = name.removesuffix("qkv.weight")
        width = state[name].shape[0] // 3
        zeros = state[name].new_zeros(width)
        whole = fitted.pop(f"{place}qkv.bias", None)
        biases = [fitted.pop(f"{place}{part}", zeros) for part in _PARTS]
        if whole is not None:
            biases = list(whole.split(width))
        if f"{place}qkv.bias" in own:
            fitted[f"{place}qkv.bias"] = torch.cat(biases)
            continue
        for part, bias in zip(_PARTS, biases, strict=True):
            if f"{place}{part}" in own:
                fitted[f"{place}{part}"] = bias
            elif bias.any():
                what = {"q": "queries", "k": "keys", "v": "values"}[part[0]]
                hint = "" if "layers." in name else "; set student.qkv_bias=all"  # of a ViT
                raise UserError(
                    f"{source} has learned biases of the {what} ({place}{part}), for which the "
                    f"student has no place{hint}"
                )
    return fitted
