"""Pickles read by an allow-list: tensors, arrays and plain settings; nothing in a file is run.

What a file asks for is found by scanning its opcodes. The settings that training scripts leave
beside the weights (namespaces, paths, configurations, numpy's numbers) are read as inert stand-ins.
"""

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import torch

from vistill.errors import UserError
from vistill.models.files.archives import read_archive
from vistill.models.files.stand_ins import full_name, latin, stand_in

# A file of before PyTorch 1.6 is five pickles in a row, then the numbers; the first is this one.
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


class _PlainReader(pickle.Unpickler):
    """Pickles of arrays in containers, as detectron2 writes them."""

    def find_class(self, module: str, name: str) -> Any:
        full = full_name(module, name)
        found = stand_in(full)
        if found is None:
            found = {"_codecs.encode": latin, "collections.OrderedDict": OrderedDict}.get(full)
        if found is None:
            raise pickle.UnpicklingError(f"{full} is not allowed in a weight file")
        return found


def read_pickle(path: Path) -> Any:
    """What a PyTorch file or a pickle of arrays holds.

    Raises:
        UserError: it asks for more than tensors and settings, which are named, or cannot be read.
    """
    wanted = _asked_for(path)
    strangers = [name for name in wanted if not _TORCH.fullmatch(name) and stand_in(name) is None]
    if strangers:
        raise UserError(
            f"{path} is not weights alone: reading it would run {_listed(strangers)}, and nothing "
            "of a file is run here; where it was made, save the tensors alone, by "
            "torch.save(model.state_dict(), FILE) or as safetensors"
        )
    if _is_plain(path):
        with path.open("rb") as file:
            return _PlainReader(file, encoding="latin1").load()
    zipped = zipfile.is_zipfile(path)
    if zipped and (root := _of_another_protocol(path)) is not None:
        return read_archive(path, root)
    settings: list[Any] = [(one, name) for name in wanted if (one := stand_in(name)) is not None]
    try:
        with torch.serialization.safe_globals(settings):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        # torch advises to load it unsafely; its reason stands behind that advice.
        told = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        odd = not told or _ADVICE.search(told) or told.startswith("Unsupported operand")
        reason = "its pickle is not one that torch writes by itself; save it again" if odd else told
        raise UserError(f"cannot read weights from {path}: {reason}") from error


def _is_plain(path: Path) -> bool:
    """Whether a file is one pickle, which PyTorch's are not."""
    with path.open("rb") as file:
        head = file.read(16 + len(_LEGACY))
    return head[:1] == b"\x80" and _LEGACY not in head


def _of_another_protocol(path: Path) -> str | None:
    """The folder in an archive whose pickle is not of torch's own protocol, or None."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith("/data.pkl"):
                with archive.open(member) as stream:
                    if stream.read(2) != b"\x80\x02":
                        return member.removesuffix("data.pkl")
    return None


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
            found.append(full_name(module, name))
        elif kind == "STACK_GLOBAL":
            found.append(full_name(*pushed[-2:]))
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
