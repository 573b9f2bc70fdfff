"""Labels inside `.tar` shards: small members beside the samples, in WebDataset's naming.

WebDataset's key of a member is its path up to the first dot of the file name. Members whose names
go on together behind that dot are nearer still: `1.7.cls` tells the class of `1.7.jpg`, and `1.cls`
that of `1.jpg`, `1.a.jpg` and of `1.7.jpg` where nothing nearer does.
"""

import json
import sys
from pathlib import Path

from vistill.data.names import Coded, PackedNames
from vistill.data.passed_over import PassedOver
from vistill.data.source import suffix
from vistill.errors import UserError

KINDS = (".cls", ".json", ".txt")
"""What may hold a label; the first kind that gives any decides for all samples."""
FIELDS = ("label", "class", "cls")
"""Fields of a `.json` member that hold a label, the first that is there."""
LARGEST = {".cls": 1 << 12, ".json": 1 << 20, ".txt": 1 << 8}
"""Bytes above which a member is no label."""


class ShardMembers:
    """The label members of one shard."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.places: dict[str, list[tuple[str, int, int]]] = {kind: [] for kind in KINDS}
        self.counts = dict.fromkeys(KINDS, 0)

    def take(self, name: str, offset: int, size: int) -> bool:
        """Note a member if it is of a kind that may hold labels, and say whether it is."""
        kind = suffix(name)
        if kind not in KINDS:
            return False
        self.counts[kind] += 1
        if size <= LARGEST[kind]:
            self.places[kind].append((name, offset, size))
        return True

    def texts(self, kind: str) -> "_Texts":
        """What the members of one kind say."""
        found = _Texts(self.file, sure=kind != ".txt")
        with open(self.file, "rb") as file:
            for name, offset, size in self.places[kind]:
                file.seek(offset)
                text = _label(kind, file.read(size), f"'{self.file}' member '{name}'")
                if text:
                    found.add(name, text)
        return found


class ShardLabels:
    """Labels of the samples of all shards, by kind of member.

    Attributes:
        notes: what was decided, where that may surprise.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._labels = {kind: Coded() for kind in KINDS}
        self._owed = dict.fromkeys(KINDS, 0)
        self._counts = dict.fromkeys(KINDS, 0)
        self._examples: dict[str, str] = {}
        self._told: set[str] = set()

    def add(self, members: ShardMembers, names: PackedNames) -> None:
        """The labels of one more shard's samples.

        Raises:
            UserError: a sample for which two members say different classes.
        """
        for place, kind in enumerate(KINDS):
            self._counts[kind] += members.counts[kind]
            if members.places[kind]:
                self._examples.setdefault(kind, members.places[kind][0][0])
            labels = self._labels[kind]
            # Where a kind before it told some, this one need not be read at all.
            if self._told.intersection(KINDS[:place]) or not members.places[kind]:
                self._owed[kind] += len(names)
                continue
            labels.add_same(None, self._owed[kind])
            self._owed[kind] = 0
            texts = members.texts(kind)
            for name in names:
                labels.add(texts.of(name))
            if any(labels.texts):
                self._told.add(kind)

    def chosen(self, passed: PassedOver) -> Coded | None:
        """The label of every sample, or None where no kind tells any; other kinds are passed over.

        Texts are classes where every one is said of two samples or more on average: captions are
        not.
        """
        found: Coded | None = None
        for kind in KINDS:
            if not self._counts[kind]:
                continue
            labels = self._labels[kind]
            labels.add_same(None, self._owed[kind])
            told = labels.counts()
            del told[None], told[""]
            if kind == ".txt" and 2 * len(told) > told.total():
                told.clear()
            if found is None and told:
                found = labels
                if kind != ".cls":
                    self.notes.append(
                        f"labels are read from the {kind} members: {len(told)} classes for "
                        f"{told.total()} of {len(labels)} {passed.media.noun}s"
                    )
            else:
                passed.count(kind, self._examples.get(kind, ""), self._counts[kind])
        return found


class _Texts:
    """What the label members of one kind and shard say, by member."""

    def __init__(self, file: Path, sure: bool) -> None:
        self.file, self.sure = file, sure
        self.by_stem: dict[str, str] = {}
        self.by_key: dict[str, str] = {}
        self.clashes: dict[str, tuple[str, str]] = {}

    def add(self, member: str, text: str) -> None:
        """One member's text."""
        stem = member.rpartition(".")[0]
        if self.sure and self.by_stem.get(stem, text) != text:
            raise UserError(
                f"'{self.file}' holds '{member}' twice, with the classes {self.by_stem[stem]!r} "
                f"and {text!r}"
            )
        self.by_stem[stem] = sys.intern(text)
        first = self.by_key.setdefault(key := member_key(stem), stem)
        if self.by_stem[first] != text:
            self.clashes.setdefault(key, (first, stem))

    def of(self, name: str) -> str | None:
        """The label of a sample: that of the member whose name goes along furthest."""
        stem, key = name.rpartition(".")[0], member_key(name)
        while len(stem) >= len(key):
            if stem in self.by_stem:
                return self.by_stem[stem]
            if stem == key:
                break
            stem = stem.rpartition(".")[0]
        if key in self.clashes:
            if not self.sure:
                return None
            one, two = self.clashes[key]
            raise UserError(
                f"'{self.file}' tells two classes for '{name}': '{one}' is of class "
                f"{self.by_stem[one]!r} and '{two}' of class {self.by_stem[two]!r}; name the label "
                "like the sample"
            )
        return self.by_stem.get(self.by_key.get(key, ""))


def member_key(name: str) -> str:
    """WebDataset's key: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _label(kind: str, data: bytes, where: str) -> str | None:
    try:
        text = data.decode("utf-8").strip()
        told = json.loads(text) if kind == ".json" else text
    except ValueError as error:
        if kind == ".cls":
            raise UserError(f"{where} cannot be read as text: {error}") from error
        return None
    if isinstance(told, dict):
        told = next((told[field] for field in FIELDS if field in told), None)
    if isinstance(told, int) and not isinstance(told, bool):
        return str(told)
    return told.strip() if isinstance(told, str) and "\n" not in told.strip() else None
