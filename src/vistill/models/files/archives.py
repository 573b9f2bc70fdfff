"""PyTorch's zip archives read by an allow-list of our own: TorchScript (OpenAI's CLIP files), whose
code is not run, and pickles of protocols that torch does not read safely."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistill.models.files.stand_ins import full_name, latin, stand_in

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands in for every class of the archive: it keeps the attributes and has no behaviour."""

    attributes: dict[str, Any]

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _first(value: Any, *_: Any) -> Any:
    return value


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): latin,
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        found = stand_in(full_name(module, name))
        if found is not None:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weight file")

    def persistent_load(self, pid: Any) -> Tensor:
        if not isinstance(pid, tuple):  # protocol 0 writes what tensors refer to as mere text
            raise pickle.UnpicklingError("pickle protocol 0 loses where its tensors are")
        _, dtype, key, _, count = pid
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0)


def archive_root(path: Path) -> str | None:
    """The folder inside a TorchScript archive, or None where `path` is none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        tails = [name.partition("/") for name in archive.namelist()]
    return next((f"{root}/" for root, _, rest in tails if rest == "constants.pkl"), None)


def read_archive(path: Path, root: str) -> Any:
    """What the archive's pickle holds.

    Raises:
        pickle.UnpicklingError: it asks for something that is no tensor, setting or module.
    """
    with zipfile.ZipFile(path) as archive:
        return _Reader(archive, root).load()


def read_torchscript(path: Path, root: str) -> dict[str, Tensor]:
    """Parameters and buffers by dotted name.

    Raises:
        pickle.UnpicklingError: see `read_archive`.
    """
    return dict(_tensors(read_archive(path, root), ""))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Module):
        for key, inner in value.attributes.items():
            yield from _tensors(inner, f"{name}.{key}" if name else key)
