"""From an annotation and the folder of its files to a source, with an account of both."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
from av.error import FFmpegError

from vistill.data.archive import TarSource
from vistill.data.columns import Row
from vistill.data.importers.forms import (
    FORMS,
    UNUSED,
    Entry,
    read_classes,
    read_keys,
    usual_split,
)
from vistill.data.listing import Listed, ListSource
from vistill.data.opening import open_source
from vistill.data.patterns import matching
from vistill.data.source import CLIPS, Source, encode_labels, missing
from vistill.errors import UserError
from vistill.files import local_path

WEBDATASET = "webdataset"
FORMATS = (*FORMS, WEBDATASET)
MISSING = "missing.txt"
"""Where `vistill prepare` names the clips that have no file."""
_NAMED = 3
_LONGER = 1.0
"""Seconds by which a file has to be longer than the part of it that is meant, to be uncut."""


class Collection(ListSource):
    """The clips of an annotation that have a file.

    Attributes:
        absent: names of those that have none.
    """

    def __init__(
        self, annotation: Path, root: Path, rows: Sequence[Row], splits: Sequence[str | None]
    ) -> None:
        first = f"'{annotation}'"
        super().__init__(
            str(annotation), [Listed(annotation, iter(rows), first, False, [])], CLIPS, root
        )
        self.splits = splits if any(splits) else None
        self.absent: list[str] = []


def open_collection(
    format: str,
    annotations: str | None,
    root: str,
    split: str | None = None,
    classes: str | None = None,
) -> Source:
    """The clips of a published collection.

    Args:
        format: of the annotation, one of `FORMATS`.
        annotations: a file, several by a glob, braces or their folder.
        root: folder of the videos or frames; for `webdataset` of the shards, or their glob.
        split: of several `train`, `val`, `test`, which one; None: all.
        classes: file of the names of numbered classes.

    Raises:
        UserError: something cannot be read, or no clip has a file.
    """
    if format == WEBDATASET:
        return _shards(annotations, root, split, classes)
    assert annotations is not None
    place = local_path(root, "the root")
    if not place.is_dir():
        raise missing(place) if not place.exists() else UserError(f"'{root}' is no folder")
    files = _annotation_files(annotations)
    notes: list[str] = []
    entries = _different(FORMS[format](files), notes)
    if not entries:
        raise UserError(f"'{annotations}' speaks of no clip")
    entries = _named(entries, classes, notes)
    wanted = _of_split(entries, split, notes)
    find = _Exact(place) if entries[0].exact else _Catalog(place, entries)
    rows: list[Row] = []
    splits: list[str | None] = []
    absent: list[str] = []
    for entry in wanted:
        row = find(entry)
        if row is None:
            absent.append(entry.names[0])
        else:
            rows.append(row)
            splits.append(entry.split)
    if not rows:
        raise UserError(
            f"none of the {len(wanted)} clips of '{annotations}' has a file below '{root}', such "
            f"as {_shown(absent)}"
        )
    source = Collection(files[0], place, rows, splits)
    source.absent = absent
    if absent:
        notes.append(
            f"{len(absent)} of {len(wanted)} clips have no file below '{root}', and {MISSING} "
            f"names them: {_shown(absent)}"
        )
    source.notes = [*notes, *find.notes(), *source.notes]
    return source


def _annotation_files(annotations: str) -> list[Path]:
    place = local_path(annotations, "the annotations")
    found = [place] if place.exists() else matching(str(place))
    if not found:
        raise missing(place)
    files = []
    for path in found:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in inside if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise UserError(f"there is no file in '{annotations}'")
    return files


def _different(entries: Iterator[Entry], notes: list[str]) -> list[Entry]:
    """Without those that say the same twice."""
    found = Counter(entries)
    twice = sum(count - 1 for count in found.values())
    if twice:
        example = next(entry for entry, count in found.items() if count > 1)
        notes.append(f"{twice} lines say the same as an earlier one: {example.names[0]}")
    labels: dict[str, set[str | None]] = defaultdict(set)
    for entry in found:
        if entry.part is None or not entry.exact:
            labels[entry.names[0]].add(entry.label)
    several = [name for name, told in labels.items() if len(told) > 1]
    if several:
        notes.append(f"{len(several)} clips have several classes, once each: {_shown(several)}")
    return list(found)


def _named(entries: list[Entry], classes: str | None, notes: list[str]) -> list[Entry]:
    """With names in the place of numbers."""
    numbers = {entry.label for entry in entries if entry.label}
    if classes is None:
        if numbers and all(number.isdecimal() for number in numbers):
            notes.append("its labels are numbers; --classes FILE names them")
        return entries
    file = local_path(classes, "the classes")
    if not file.is_file():
        raise missing(file)
    names = read_classes(file)
    unknown = sorted(numbers - names.keys() - set(names.values()) - {"-1"})
    if unknown:
        keys = sorted(names, key=lambda key: (len(key), key))
        raise UserError(
            f"'{classes}' does not name class {unknown[0]}; it names {keys[0]} to {keys[-1]}"
        )
    return [replace(entry, label=names.get(entry.label or "", entry.label)) for entry in entries]


def _of_split(entries: list[Entry], split: str | None, notes: list[str]) -> list[Entry]:
    counts = Counter(entry.split for entry in entries)
    told = ", ".join(f"{count} {name or 'of no split'}" for name, count in counts.most_common())
    if split is None:
        wanted = [entry for entry in entries if entry.split != UNUSED]
        if counts[UNUSED]:
            notes.append(f"{counts[UNUSED]} clips belong to no part and are left out")
        if not wanted:
            raise UserError(f"the annotation has no clip of any part ({told})")
        return wanted
    name = usual_split(split) or split
    wanted = [entry for entry in entries if entry.split == name]
    if not wanted:
        raise UserError(f"--split {split}: the annotation has {told}")
    if len(wanted) < len(entries):
        notes.append(f"of {told}, {name} is taken")
    return wanted


class _Exact:
    """Files by the paths that a list tells."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, entry: Entry) -> Row | None:
        there = os.path.exists(os.path.join(self._root, entry.names[0]))
        return Row(entry.names[0], entry.label, entry.part) if there else None

    def notes(self) -> list[str]:
        return []


class _Catalog:
    """Files by their names, wherever they lie below the root: flat, by class, by split and class.

    Args:
        root: the folder.
        entries: all of the annotation, whether asked for or not.
    """

    def __init__(self, root: Path, entries: Sequence[Entry]) -> None:
        source = open_source(str(root), "video")
        if not isinstance(source.place(0), str):
            raise UserError(f"'{root}' holds archives; --root is the folder of the videos")
        self._root, self._told = root, list(source.notes)
        self._paths = [source.sample_name(i) for i in range(len(source))]
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self._paths:
            self._by_stem[os.path.basename(_without_ending(path))].append(path)
        folders = {name.rpartition("/")[0] for entry in entries for name in entry.names}
        self._class_folders = folders - {""}
        self._mentioned = {os.path.basename(name) for entry in entries for name in entry.names}
        self._doubles: list[str] = []

    def __call__(self, entry: Entry) -> Row | None:
        for name in entry.names:
            found = self._files(name)
            if found:
                path = self._chosen(found, entry)
                last = name == entry.names[-1]
                cut = last and entry.part is not None and self._uncut(path, entry)
                return Row(path, entry.label, entry.part if cut else None)
        return None

    def notes(self) -> list[str]:
        """What the annotation does not speak of, and what was there twice."""
        others = [
            path
            for path in self._paths
            if os.path.basename(_without_ending(path)) not in self._mentioned
        ]
        notes = list(self._told)
        if others:
            notes.append(
                f"{len(others)} of {len(self._paths)} files below '{self._root}' are not in the "
                f"annotation: {_shown(others)}"
            )
        if self._doubles:
            notes.append(
                f"{len(self._doubles)} clips have several files, of which one is taken: "
                f"{_shown(self._doubles)}"
            )
        return notes

    def _files(self, name: str) -> list[str]:
        """Those in the folder that the name has; else those that are in no class's folder."""
        folder, _, stem = name.rpartition("/")
        found = self._by_stem.get(stem, [])
        if not folder:
            return found
        in_folder = [p for p in found if f"/{_without_ending(p)}".endswith(f"/{name}")]
        return in_folder or [
            p for p in found if os.path.basename(os.path.dirname(p)) not in self._class_folders
        ]

    def _chosen(self, found: list[str], entry: Entry) -> str:
        """Of several files that in a folder of the split, then that in a folder of the class."""

        def fits(path: str) -> tuple[bool, bool]:
            folders = os.path.dirname(path).split("/")
            of_split = entry.split in {usual_split(folder) or folder for folder in folders}
            wanted = _plain(entry.label or "")
            return of_split, wanted in {_plain(folder) for folder in folders}

        best = max(map(fits, found))
        among = [path for path in found if fits(path) == best]
        if len(among) > 1:
            self._doubles.append(among[0])
        return among[0]

    def _uncut(self, path: str, entry: Entry) -> bool:
        """Whether a file is the whole recording, of which the entry means a part."""
        assert entry.part is not None
        length = entry.part.end - entry.part.start
        return _duration(os.path.join(self._root, path)) > length + _LONGER


def _shards(annotations: str | None, root: str, split: str | None, classes: str | None) -> Source:
    """A WebDataset, whose labels lie in the shards or, by key, in an annotation."""
    if split is not None:
        raise UserError("--split is for annotations; give --root the shards of one split")
    source = open_source(root, "video")
    if not isinstance(source, TarSource):
        raise UserError(f"'{root}' is no .tar, nor a folder or pattern of them")
    labels: list[str | None] = [None] * len(source)
    if source.labels is not None and source.classes is not None:
        labels = [None if n < 0 else source.classes[n] for n in source.labels.tolist()]
    if annotations is not None:
        told = read_keys(_annotation_files(annotations)[0])
        labels = [_by_key(told, source.member(i)[0]) for i in range(len(source))]
        if not any(labels):
            raise UserError(
                f"no key of '{annotations}' is one of '{root}': {_shown(list(told))}, but "
                f"{source.member(0)[0]}"
            )
        lacking = labels.count(None)
        if lacking:
            source.notes.append(f"{lacking} of {len(labels)} clips are not in '{annotations}'")
        unused = len(told) - (len(labels) - lacking)
        if unused > 0:
            source.notes.append(f"{unused} keys of '{annotations}' have no clip")
    entries = [Entry((source.member(i)[0],), label) for i, label in enumerate(labels)]
    notes: list[str] = []
    named = _named(entries, classes, notes)
    source.notes += notes
    source.classes, source.labels = encode_labels([entry.label for entry in named])
    return source


def _by_key(labels: dict[str, str], member: str) -> str | None:
    """The label of a member by its name, with or without ending, or by WebDataset's key of it."""
    folder, slash, file = member.rpartition("/")
    key = f"{folder}{slash}{file.partition('.')[0]}"
    for name in (member, _without_ending(member), key, os.path.basename(key)):
        if name in labels:
            return labels[name]
    return None


def _duration(path: str) -> float:
    """Seconds by the header of a file; 0 where it tells none, as of a folder of frames."""
    if os.path.isdir(path):
        return 0.0
    try:
        with av.open(path, metadata_errors="ignore") as container:
            return (container.duration or 0) / 1e6
    except (FFmpegError, ValueError):
        return 0.0


def _without_ending(path: str) -> str:
    return os.path.splitext(path)[0] if CLIPS.holds(path) else path


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").replace("+", " ").strip()


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
