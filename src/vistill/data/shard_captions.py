"""Captions inside `.tar` shards: a `.txt` of lines, or the field `caption` of a `.json`, beside
every sample, in WebDataset's naming."""

import json
from collections.abc import Iterator
from pathlib import Path

from vistill.data.archive import TarSource
from vistill.data.columns import caption_texts
from vistill.data.shard_labels import member_key
from vistill.data.source import suffix
from vistill.data.tar_members import tar_members
from vistill.errors import UserError

_LARGEST = 1 << 20
"""Bytes above which a member is no caption."""
_FIELDS = ("caption", "captions", "text")


def shard_captions(source: TarSource) -> Iterator[list[str]]:
    """All captions of every sample, in its order; one shard is held at a time.

    Raises:
        UserError: a text cannot be read, or a field holds something else.
    """
    shard, said = "", dict[str, list[str]]()
    for i in range(len(source)):
        name, place, _ = source.member(i)
        if place != shard:
            shard, said = place, _said(Path(place))
        yield said.get(member_key(name), [])


def _said(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with open(file, "rb") as raw:
        for name, offset, size in tar_members(file):
            kind = suffix(name)
            if kind not in (".txt", ".json") or size > _LARGEST:
                continue
            raw.seek(offset)
            where, data = f"'{file}' member '{name}'", raw.read(size)
            path = name.removeprefix("./").lstrip("/")
            found.setdefault(member_key(path), []).extend(_texts(kind, where, data))
    return found


def _texts(kind: str, where: str, data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8")
        if kind == ".txt":
            return text.splitlines()
        told = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    if not isinstance(told, dict):
        return []
    return list(caption_texts(where, next((told[f] for f in _FIELDS if f in told), None)))
