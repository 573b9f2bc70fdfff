"""Pickles read by an allow-list: tensors, arrays and plain settings; nothing in a file is run.

What a file asks for is found by scanning its opcodes. The settings that training scripts leave
beside the weights (namespaces, paths, configurations, numpy's numbers) are read as inert stand-ins.
"""

import pickle
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, in protocol 2
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vistill.errors import UserError

# A file of before PyTorch 1.6 is five pickles in a row, then the numbers; it begins with this one.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5
# What torch builds tensors of by itself.
_TORCH = re.compile(
    r"torch\.(_utils\._rebuild\w+|_tensor\._rebuild\w+|storage\.\w+Storage|\w+Storage|Size|device"
    r"|nn\.parameter\.Parameter|Tensor|[a-z]+\d+\w*|bool|serialization\._get_layout)"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|builtins\.(set|bytearray|complex)"
)
_ADVICE = re.compile(r"weights_only|safe_globals|trust", re.IGNORECASE)


class _Setting:
    """Stands in for what a setting is of: takes anything, keeps and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Setting":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


class _Kind:
    """Stands in for `numpy.dtype`: the code of a number, and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = {"<": "<", ">": ">"}.get(str(state[1]), "=")

    def numbers(self, raw: Any) -> np.ndarray | None:
        """The numbers in `raw`; None if they are none, but objects or dates."""
        if not re.fullmatch(r"[fiub]\d+", self.code) or not isinstance(
            raw, str | bytes | bytearray
        ):
            return None
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(data, np.dtype(f"{self.order}{self.code}"))


class Array:
    """Stands in for `numpy.ndarray`; `value` is None where it holds no numbers."""

    value: Tensor | None = None

    def __new__(cls, *_: Any) -> "Array":
        return super().__new__(cls)

    @classmethod
    def of_buffer(cls, raw: Any, kind: Any, shape: Any, order: str) -> "Array":
        """As protocol 5 writes it."""
        array = cls()
        array.__setstate__((1, shape, kind, order == "F", raw))
        return array

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        found = kind.numbers(raw) if isinstance(kind, _Kind) else None
        if found is not None:
            array = found.reshape(shape, order="F" if fortran else "C")
            native = array.astype(array.dtype.newbyteorder("="), order="C")
            self.value = torch.from_numpy(native)


def _dictionary(*_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _number(kind: Any, raw: Any = None) -> Any:
    found = kind.numbers(raw) if isinstance(kind, _Kind) else None
    return None if found is None or len(found) != 1 else found[0].item()


def _latin(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


# Names in pickles, and what stands in for them; the first that fits counts.
_STAND_INS: tuple[tuple[str, Any], ...] = (
    (r"numpy\.(core|_core)\.multiarray\._reconstruct|numpy\.ndarray", Array),
    (r"numpy\.(core|_core)\.numeric\._frombuffer", Array.of_buffer),
    (r"numpy\.(core|_core)\.multiarray\.scalar", _number),
    (r"numpy\.dtype", _Kind),
    (r"numpy\.[\w.]+", _Setting),
    (r"[\w.]+\.(CfgNode|AttributeDict|AttrDict|ConfigDict|EasyDict|Munch|DotDict)", OrderedDict),
    (r"addict(\.addict)?\.Dict", OrderedDict),
    (r"collections\.defaultdict", _dictionary),
    (r"argparse\.Namespace|types\.SimpleNamespace|torch\.torch_version\.TorchVersion", _Setting),
    (r"(pathlib|pathlib\._local|typing|datetime|omegaconf|ml_collections)\.[\w.]+", _Setting),
    (r"(pytorch_lightning|lightning|lightning_fabric|mmengine|mmcv)\.[\w.]+", _Setting),
    (r"builtins\.(dict|list|tuple|int|float|str|bool|bytes|object|type)", _Setting),
)  # fmt: skip


def _stand_in(name: str) -> Any:
    return next((one for pattern, one in _STAND_INS if re.fullmatch(pattern, name)), None)


class _PlainReader(pickle.Unpickler):
    """Pickles of arrays in containers, as detectron2 writes them."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        found = _stand_in(full)
        if found is None:
            found = {"_codecs.encode": _latin, "collections.OrderedDict": OrderedDict}.get(full)
        if found is None:
            raise pickle.UnpicklingError(f"{full} is not allowed in a weight file")
        return found


def read_pickle(path: Path) -> Any:
    """What a PyTorch file or a pickle of arrays holds.

    Raises:
        UserError: it asks for more than tensors and settings, which are named, or cannot be read.
    """
    wanted = _asked_for(path)
    strangers = [name for name in wanted if not _TORCH.fullmatch(name) and _stand_in(name) is None]
    if strangers:
        raise UserError(
            f"{path} is not weights alone: reading it would run {_listed(strangers)}, and nothing "
            "of a file is run here; where it was made, save the tensors alone, by "
            "torch.save(model.state_dict(), FILE) or as safetensors"
        )
    if _is_plain(path):
        with path.open("rb") as file:
            return _PlainReader(file, encoding="latin1").load()
    settings: list[Any] = [(one, name) for name in wanted if (one := _stand_in(name)) is not None]
    zipped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(settings):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        # torch advises to load it unsafely; its reason stands behind that advice.
        told = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        reason = "its pickle is not one of weights" if not told or _ADVICE.search(told) else told
        raise UserError(f"cannot read weights from {path}: {reason}") from error


def _is_plain(path: Path) -> bool:
    """Whether a file is one pickle, which PyTorch's are not."""
    with path.open("rb") as file:
        head = file.read(2 + len(_LEGACY))
    return head[:1] == b"\x80" and head[2:] != _LEGACY


def _asked_for(path: Path) -> list[str]:
    """Everything that the pickles of a file ask for by name, found without running them."""
    found: dict[str, None] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("/data.pkl"):
                    with archive.open(member) as stream:
                        found |= dict.fromkeys(_named(stream))
        return list(found)
    with path.open("rb") as stream:
        for _ in range(1 if _is_plain(path) else _LEGACY_PICKLES):
            found |= dict.fromkeys(_named(stream))
    return list(found)


def _named(stream: IO[bytes]) -> list[str]:
    """The names in one pickle; opcodes that push strings are followed for protocols above 3."""
    found: list[str] = []
    pushed: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    for operation, argument, _ in pickletools.genops(stream):
        kind = operation.name
        if kind in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            renamed = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found.append(".".join(renamed))
        elif kind == "STACK_GLOBAL":
            found.append(".".join(pushed[-2:]))
        elif kind in ("BINGET", "LONG_BINGET", "GET"):
            last = memo.get(int(argument or 0), "")
            pushed.append(last)
        elif kind in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument or 0)] = last
        elif kind == "MEMOIZE":
            memo[len(memo)] = last
        else:
            last = argument if isinstance(argument, str) else ""
            if last:
                pushed.append(last)
    return found


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
