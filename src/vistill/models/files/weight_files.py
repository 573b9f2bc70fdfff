"""Weight files as training scripts leave them, opened without unpickling code (spec 11).

A file may be safetensors, PyTorch's, TorchScript's, a pickle of arrays, or the index of shards; the
weights may be wrapped in a training checkpoint, averaged, and named behind prefixes.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from vistill.errors import UserError
from vistill.files import near_path
from vistill.models.files.archives import archive_root, read_torchscript
from vistill.models.files.safe_pickles import read_pickle
from vistill.models.files.stand_ins import Array

# What training scripts call the network in a checkpoint, the first that is there counts.
_NETWORKS = (
    *("model", "state_dict", "module", "model_state_dict", "model_state", "net", "network"),
    *("weights", "student", "base_model", "shadow", "state"),
)
_AVERAGE = re.compile(r"(^|_)(ema|swa|averaged?|avg)(_|$)")
# Networks beside the one that was trained, and its copies.
_ASIDE = re.compile(r"(^|_)(teacher|momentum|target|attacker)(_|$)|^feature_model$|^encoder_k$")
# Tensors by which a network of a published layout is found behind any prefix.
_ANCHORS = (
    "patch_embed.proj.weight",
    "visual.class_embedding",
    "layer1.0.conv1.weight",
    "features.0.0.weight",
    "res2.0.conv1.weight",
)
_ENOUGH = 0.5
"""Share of a module's names behind a prefix at which they are said to be there."""
_USUAL = re.compile(r"^((module|_orig_mod|model|net|network|backbone|encoder)\.)+")
_OUTSIDE = ("head.", "head_dist.", "fc_norm.", "fc.", "classifier.")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class FileWeights(NamedTuple):
    """Tensors of one network.

    Attributes:
        state: by name, without what training scripts put in front.
        taken: which network was taken, said where the file leaves a choice; else empty.
        by_timm: whether the container is timm's: tensors by themselves or in a `state_dict`, where
            the published code of MAE, DeiT, BEiT and their like has a `model`.
    """

    state: dict[str, Tensor]
    taken: str
    by_timm: bool


def published_prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands in front of networks of published layouts."""
    found = (
        name.removesuffix(anchor)
        for name in state
        for anchor in _ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    )
    return list(dict.fromkeys(found))


def prefixes_of(own: Collection[str], state: Mapping[str, Tensor]) -> list[str]:
    """What stands in front of the names `own` of a module."""
    first = max(own, key=lambda name: name.count("."), default="")
    found = [n.removesuffix(first) for n in state if n == first or n.endswith(f".{first}")]
    return [p for p in found if sum(p + name in state for name in own) >= _ENOUGH * len(own)]


def read_weights(
    path: Path,
    branch: str | None = None,
    prefixes: Callable[[Mapping[str, Tensor]], list[str]] = published_prefixes,
) -> FileWeights:
    """The network in a weight file.

    Args:
        path: a `.safetensors`, PyTorch, TorchScript or pickle file, or the `.index.json` of shards.
        branch: which network of several: `student`, `teacher`, `ema`, or the name of a key or a
            prefix; None: the one that was trained.
        prefixes: finds what stands in front of the names of a network.

    Raises:
        UserError: the file is missing, unreadable, unsafe, holds no tensors or no such network.
    """
    content, keys, taken = _opened(path), list[str](), ""
    while options := _options(content):
        key, remark = _chosen(options, branch)
        if key is None:
            break
        if branch is not None and _is(key, branch):
            branch = None  # found
        content, taken = content[key], remark or taken
        keys.append(key)
    found = ((k, v.value if isinstance(v, Array) else v) for k, v in _items(content))
    state = {k: v for k, v in found if isinstance(v, Tensor)}
    if not state:
        inside = ", ".join(k for k, _ in _items(content)) or "nothing by name"
        raise UserError(
            f"{path} holds no tensors where they are looked for; it holds {inside}; "
            "say behind which name they are: file:PATH,branch=NAME"
        )
    state, behind = _network(state, path, branch, prefixes(state))
    return FileWeights(state, taken or behind, not keys or keys[-1] == "state_dict")


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        yield from ((k, v) for k, v in content.items() if isinstance(k, str))


def _options(content: Any) -> list[str]:
    """Keys behind which a network may be."""
    return [k for k, v in _items(content) if isinstance(v, dict) and any(_items(v))]


def _is(name: str, branch: str) -> bool:
    """Whether a key, or a part of a prefix, is what `branch` asks for."""
    role = {"ema": _AVERAGE, "teacher": _ASIDE}.get(branch)
    return name == branch or (role is not None and role.search(name) is not None)


def _chosen(options: list[str], branch: str | None) -> tuple[str | None, str]:
    """The key to follow, and what is said of it where there is a choice."""
    averages = [key for key in options if _AVERAGE.search(key)]
    others = averages + [key for key in options if _ASIDE.search(key)]
    if branch is not None:
        wanted = sorted((key for key in options if _is(key, branch)), key=lambda k: k != branch)
        if wanted:
            return wanted[0], f"its {wanted[0]}"
    trained = next((key for key in _NETWORKS if key in options), None)
    if trained is None:
        return (averages[0], f"its {averages[0]}") if averages else (None, "")
    return trained, f"its {trained}, beside {', '.join(others)}" if others else ""


def _network(
    state: dict[str, Tensor], path: Path, branch: str | None, prefixes: list[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors behind the prefix of the network with classifiers beside it, and what is said."""
    if not prefixes and branch in (None, "student"):
        return {_USUAL.sub("", k): v for k, v in state.items()}, ""
    fitting = [prefix for prefix in prefixes if _fits(prefix, branch)]
    if branch is None and not fitting:
        fitting = [prefix for prefix in prefixes if _any(_AVERAGE, prefix)]
    if len(fitting) != 1:
        shown = ", ".join(prefix.rstrip(".") or "one without a name" for prefix in prefixes)
        if branch is None:
            what = f"its networks are {shown}; say which: file:PATH,branch=NAME"
        else:
            what = f"no network of it is called {branch!r}; there is {shown or 'one'}"
        raise UserError(f"{path}: {what}")
    prefix = fitting[0]
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    parts = prefix.split(".")[:-1]
    for length in reversed(range(len(parts))):  # a classifier beside its backbone
        around = "".join(f"{part}." for part in parts[:length])
        for name, value in state.items():
            if name.startswith(tuple(f"{around}{head}" for head in _OUTSIDE)):
                inside.setdefault(name.removeprefix(around), value)
    others = [p for p in prefixes if p != prefix and "attacker" not in p.split(".")]
    if "n_averaged" in state:
        return inside, "its average"
    said = others or not _USUAL.fullmatch(prefix or "net.")
    return inside, f"its {prefix.rstrip('.') or 'own'}" if said else ""


def _any(pattern: re.Pattern[str], prefix: str) -> bool:
    return any(pattern.search(part) for part in prefix.split("."))


def _fits(prefix: str, branch: str | None) -> bool:
    if branch in (None, "student"):
        return not (_any(_ASIDE, prefix) or _any(_AVERAGE, prefix))
    return prefix == f"{branch}." or any(_is(part, branch) for part in prefix.split(".")[:-1])


def _opened(path: Path) -> Any:
    """What the file holds: nested dictionaries with tensors and settings."""
    if path.is_dir():
        index = next((name for name in _INDICES if (path / name).is_file()), None)
        if index is None:
            raise UserError(f"{path} is a folder; name a file in it, or write run:{path}")
        path = path / index
    if not path.is_file():
        raise UserError(f"there is no weight file {path}{near_path(path)}")
    if path.name.endswith(".index.json"):
        return _shards(path)
    if _SHARD.search(path.name):
        indices = ", ".join(str(one) for one in sorted(path.parent.glob("*.index.json")))
        where = f"name their index {indices}" if indices else "their .index.json is missing"
        raise UserError(f"{path} is one of several shards; {where}")
    return _one_file(path)


def _one_file(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"version https:"):
        raise UserError(
            f"{path} is a pointer of Git LFS, not the weights: fetch them by git lfs pull"
        )
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, not weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if (root := archive_root(path)) is not None:
            return read_torchscript(path, root)
        return read_pickle(path)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read weights from {path}: {reason}") from error


def _shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index of transformers' kind names.

    Raises:
        UserError: the index is none, or a shard is missing, elsewhere, or lacks a promised tensor.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of shards: it has no weight_map") from error
    if strange := [name for name in files if Path(str(name)).name != name]:
        raise UserError(f"{index} names the shard {strange[0]!r}, which is not beside it")
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise UserError(f"{index} names {len(files)} shards; {missing[0]} is not there")
    state: dict[str, Tensor] = {}
    for name in files:
        state |= dict(_items(_one_file(index.parent / name)))
    if absent := [name for name in places if name not in state]:
        raise UserError(f"{index} promises {absent[0]} in {places[absent[0]]}, which has it not")
    return state
