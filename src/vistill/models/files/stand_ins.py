"""What stands in for the settings that training scripts pickle beside weights, by an allow-list of
names: for namespaces, paths and configurations what keeps nothing, for numbers and arrays them."""

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor


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


def _reconstructed(kind: Any, *_: Any) -> Any:
    """In place of `copyreg._reconstructor`, by which protocols 0 and 1 write objects."""
    return OrderedDict() if kind is OrderedDict else _Setting()


def latin(text: str, *_: Any) -> bytes:
    """In place of `_codecs.encode`, by which protocol 2 writes bytes."""
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
    (r"copyreg\._reconstructor", _reconstructed),
    (r"argparse\.Namespace|types\.SimpleNamespace|torch\.torch_version\.TorchVersion", _Setting),
    (r"(pathlib|pathlib\._local|typing|datetime|omegaconf|ml_collections)\.[\w.]+", _Setting),
    (r"(pytorch_lightning|lightning|lightning_fabric|mmengine|mmcv)\.[\w.]+", _Setting),
    (r"builtins\.(dict|list|tuple|int|float|str|bool|bytes|object|type)", _Setting),
)  # fmt: skip


def full_name(module: str, name: str) -> str:
    """The dotted name of what a pickle asks for, where it has one of Python 2 the later one."""
    later = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return ".".join(later)


def stand_in(name: str) -> Any:
    """The class or function that stands in for `name`; None where it is not allowed."""
    return next((one for pattern, one in _STAND_INS if re.fullmatch(pattern, name)), None)
