"""What the folder of a run says, whatever of it is there: old and unfinished runs included."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.files import local_path, near_path
from vistill.runs.results import PretrainResult
from vistill.training.run_folder import MARKER, RESULT

_METRICS, _CONFIG, _SESSIONS = "metrics.jsonl", "config.yaml", "environment.json"


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        folder: of it.
        name: what it is called beside others.
        config: text of `config.yaml`; empty where there is none.
        settings: what that says, by section.
        rows: lines of `metrics.jsonl`, by key.
        sessions: of `environment.json`, one for every start.
        result: of a finished run.
        broken: how many samples could not be read.
    """

    folder: Path
    name: str
    config: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]
    sessions: Sequence[Mapping[str, Any]]
    result: PretrainResult | None
    broken: int = 0

    @property
    def epochs(self) -> int | None:
        """How many epochs it is to have."""
        return self.section("train").get("epochs")

    def section(self, name: str) -> Mapping[str, Any]:
        """Settings of a section; empty where there is none."""
        return self.settings.get(name) or {}

    def points(
        self, key: str, x: str = "epoch", scale: float = 1.0
    ) -> tuple[list[float], list[float]]:
        """A column of the metrics over another one."""
        rows = [row for row in self.rows if key in row and x in row]
        return [scale * row[x] for row in rows], [row[key] for row in rows]

    def measured(self) -> list[str]:
        """Everything that was measured, in the order in which it came up."""
        return list(dict.fromkeys(key for row in self.rows for key in row))


def read_records(places: Sequence[str]) -> list[Record]:
    """All runs, and of a chain those of its students.

    Raises:
        UserError: a folder is no run, or is named twice.
    """
    folders: list[Path] = []
    for place in places:
        folder = local_path(place.removeprefix("run:"), "a run")
        stages = sorted(_require_run(folder).glob("[0-9]*-*/" + MARKER), key=_stage)
        folders += [path.parent for path in stages] or [folder]
    if not folders:
        raise UserError("report needs a run: give the folder of one")
    twice = next((one for one in folders if folders.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"report was given {twice} twice; leave one of them out")
    names = _names(folders)
    return [read_record(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_record(folder: Path, name: str) -> Record:
    """What is there of a run.

    Raises:
        UserError: a file of it is damaged.
    """
    config = _text(folder / _CONFIG)
    settings = load_yaml(config, str(folder / _CONFIG)) if config else {}
    rows = []
    for line in _text(folder / _METRICS).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # a kill cut it short
            continue
    sessions = json.loads(_text(folder / _SESSIONS) or "[]")
    result = _text(folder / RESULT)
    broken = sum(len(json.loads(_text(path))) for path in folder.glob("broken_*s.json"))
    finished = PretrainResult.from_json(result) if result else None
    return Record(folder, name, config, settings, rows, sessions, finished, broken)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _stage(marker: Path) -> int:
    number = marker.parent.name.partition("-")[0]
    return int(number) if number.isdigit() else 0


def _require_run(folder: Path) -> Path:
    if not folder.exists():
        raise UserError(f"{folder} does not exist{near_path(folder)}")
    if not (folder / MARKER).is_file() and not (folder / _METRICS).is_file():
        runs = (
            sorted(path.parent for path in folder.glob("**/" + MARKER))[:1]
            if folder.is_dir()
            else []
        )
        near = f"; {runs[0]} is one" if runs else ""
        raise UserError(f"{folder} is no run: it holds neither {MARKER} nor {_METRICS}{near}")
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell the folders apart."""
    paths = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
