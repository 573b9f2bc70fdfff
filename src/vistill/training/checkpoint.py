"""Checkpoints that survive a kill at any moment: written aside, renamed, verified when read."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vistill.files import atomic_writer
from vistill.training.distributed import sharded_like, whole
from vistill.training.errors import TrainingError

KEEP = 2
_NAME = re.compile(r"step-(\d+)\.pt")


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as the newest checkpoint and drop all but the last two.

    Raises:
        TrainingError: it could not be written, for lack of space say; older ones are intact.
    """
    path = folder / f"step-{step:08d}.pt"
    try:
        with atomic_writer(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # torch wraps what the file raised in a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        kept = checkpoints(folder)
        rest = f"{kept[0]} is intact" if kept else "there is no older one"
        reason = getattr(cause, "strerror", None) or cause
        raise TrainingError(f"cannot write the checkpoint {path}: {reason}; {rest}") from error
    for old in checkpoints(folder)[KEEP:]:
        old.unlink()
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that reads back whole; damaged ones are named in a warning.

    Raises:
        TrainingError: there are checkpoints, but all are damaged.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            return _read(path)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as e:
            warnings.warn(
                f"the checkpoint {path} is damaged ({e}); using the one before", stacklevel=2
            )
    if paths:
        raise TrainingError(f"every checkpoint in {folder} is damaged; delete them to start again")
    return None


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _parameters(
    optimizer: torch.optim.Optimizer, module: nn.Module
) -> list[tuple[str, nn.Parameter]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [(names[p], p) for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """The optimiser's memory by parameter name, whole and on the host, whatever the strategy."""
    memory: dict[str, Any] = {}
    for name, parameter in _parameters(optimizer, module):
        values = {key: whole(value) for key, value in optimizer.state[parameter].items()}
        memory[name] = {
            key: value.cpu() if isinstance(value, torch.Tensor) else value
            for key, value in values.items()
        }
    return memory


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, memory: dict[str, Any]
) -> None:
    """The inverse of `optimizer_state`, into the present sharding."""
    for name, parameter in _parameters(optimizer, module):
        optimizer.state[parameter] = {
            key: sharded_like(value, parameter).to(parameter.device, copy=True)
            for key, value in memory[name].items()
        }
