"""Parameter groups of pre-training and fine-tuning, and AdamW or SGD over them (spec 3)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from vistill.config.optim import OptimConfig
from vistill.training.optimizers import SGD, AdamW

Group = dict[str, Any]

_NEVER_DECAYED = ("cls_token", "pos_embed")


def peak_lr(optim: OptimConfig, global_batch_size: int) -> float:
    """`optim.lr`, else `optim.base_lr` scaled linearly from a global batch of 256."""
    return optim.base_lr * global_batch_size / 256 if optim.lr is None else optim.lr


def pretrain_groups(
    module: nn.Module,
    weight_decay: float,
    no_decay_names: Sequence[str] = (),
    *,
    decay_biases: bool = False,
) -> list[Group]:
    """Two groups: biases and 1-D parameters never decay, everything else does, tokens included.

    Frozen parameters are in neither.

    Args:
        module: what is trained.
        weight_decay: of the second group.
        no_decay_names: parameters whose name contains one of these do not decay either.
        decay_biases: biases and 1-D parameters decay as well; the first group may then be empty.
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            named = any(part in name for part in no_decay_names)
            bias = parameter.ndim <= 1 or name.endswith(".bias")
            exempt = named or (bias and not decay_biases)
            (no_decay if exempt else decay).append(parameter)
    return [
        {"params": no_decay, "weight_decay": 0.0, "decays": False},
        {"params": decay, "weight_decay": weight_decay, "decays": True},
    ]


def layer_decay_groups(
    module: nn.Module,
    weight_decay: float,
    layer_decay: float,
    depth: int,
    *,
    layer_of: Callable[[str], int],
    prefix: str = "student.",
    no_decay_names: Sequence[str] = (),
    decay_biases: bool = False,
    decay_positions: bool = False,
) -> list[Group]:
    """Groups whose `lr_scale` falls by `layer_decay` per layer below the head.

    Args:
        module: backbone, or a classifier around it.
        weight_decay: for all but 1-D parameters, class token and position table.
        layer_decay: γ; a parameter of layer i gets γ^(depth + 1 − i).
        depth: blocks of the backbone.
        layer_of: layer of a parameter of the backbone (`Backbone.parameter_layers`).
        prefix: in front of the backbone's parameter names in `module`; any parameter without it
            belongs to the head.
        no_decay_names: parameters whose name contains one of these do not decay either.
        decay_biases: everything decays.
        decay_positions: class token and position table decay.
    """
    groups: dict[tuple[int, bool], Group] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = name.removeprefix(prefix)
        layer = layer_of(inner) if name.startswith(prefix) else depth + 1
        exempt = parameter.ndim <= 1 or (inner in _NEVER_DECAYED and not decay_positions)
        exempt = exempt or any(part in inner for part in no_decay_names)
        exempt = exempt and not decay_biases
        group = groups.setdefault(
            (layer, exempt),
            {
                "params": [],
                "weight_decay": 0.0 if exempt else weight_decay,
                "decays": not exempt,
                "lr_scale": layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def trainable(groups: Iterable[Group]) -> list[Group]:
    """The groups without frozen parameters and without empty groups."""
    kept = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    return [group for group in kept if group["params"]]


def adamw(groups: list[Group], optim: OptimConfig) -> AdamW:
    """AdamW over `groups`; the loop sets the rate at every step."""
    return AdamW(groups, betas=optim.betas, eps=optim.eps)


def build_optimizer(groups: list[Group], optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser that `optim` names, over `groups`; the loop sets the rate at every step."""
    if optim.optimizer == "sgd":
        return SGD(groups, momentum=optim.momentum)
    return adamw(groups, optim)


def set_lr(optimizer: torch.optim.Optimizer, rate: float | Callable[[float], float]) -> None:
    """Give every group its rate of this step.

    Args:
        optimizer: of groups with optional `lr_scale`, which multiplies the rate at every step, and
            `peak_scale`, which multiplies the peak of the schedule alone.
        rate: of all groups, or by the factor of the peak.
    """
    for group in optimizer.param_groups:
        lr = rate(group.get("peak_scale", 1.0)) if callable(rate) else rate
        group["lr"] = lr * group.get("lr_scale", 1.0)


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Give every group that decays (`decays`) its weight decay of this step."""
    for group in optimizer.param_groups:
        if group["decays"]:
            group["weight_decay"] = weight_decay
