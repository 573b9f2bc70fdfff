"""A run is a folder that explains itself; the same command with the same folder resumes it."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from vistill.errors import UserError
from vistill.files import PARTIAL, remove_partial, write_atomic
from vistill.locking import LOCK, FolderLock
from vistill.training.distributed import World

MARKER = "vistill.json"
RESULT = "result.json"
_PACKAGES = ("vistill", "torch", "torchvision", "timm", "numpy", "Pillow", "simplejpeg")
_FOLDERS = ("checkpoints", "export")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def difference(old: dict[str, Any], new: dict[str, Any], most: int = 3) -> str:
    """`key: old → new` of the first keys that differ; empty where none does."""
    a, b = _flat(old), _flat(new)
    missing = object()

    def show(value: Any) -> str:
        return "absent" if value is missing else json.dumps(value, ensure_ascii=False)

    changed = [
        f"{key}: {show(a.get(key, missing))} → {show(b.get(key, missing))}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, missing) != b.get(key, missing)
    ]
    more = f", and {len(changed) - most} more" if len(changed) > most else ""
    return ", ".join(changed[:most]) + more


def environment_now() -> dict[str, Any]:
    """When this process runs, by which command, with which versions, and on what."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": versions,
    }


class RunFolder:
    """The folder of one run: configuration, environment, metrics, checkpoints, exports.

    Attributes:
        path: the folder.
        fingerprint: what defines the run; a folder of another one is refused.
        resumed: whether the folder was there already.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: dict[str, Any],
        resumed: bool,
        lock: FolderLock | None = None,
    ) -> None:
        self.path, self.fingerprint, self.resumed = path, fingerprint, resumed
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write into the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per line: step, epoch and what was measured there."""
        return self.path / "metrics.jsonl"

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        fingerprint: dict[str, Any],
        config: str,
        world: World,
        asked: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        environment: dict[str, Any] | None = None,
    ) -> "RunFolder":
        """Create the folder, or recognise it as this run's own; nothing is written before a check.

        It stays locked until `close`, by rank 0.

        Args:
            path: the folder; parents are created.
            fingerprint: plain data that defines the run, without what may change on a resume.
            config: text of `config.yaml`.
            asked: settings that the run does not have as they were asked for, by their values then;
                kept with the fingerprint, so that the same request finds the run again.
            world: all ranks open together, rank 0 does the work.
            overwrite: move a run of another configuration aside (`PATH.old-1`) and start anew.
            environment: further facts for `environment.json`, such as the origin of a teacher.

        Raises:
            UserError: the folder holds something else, a run of another configuration, or one that
                another process is working on.
        """
        path = Path(path)
        fingerprint = json.loads(json.dumps(fingerprint))
        lock: FolderLock | None = None

        def claim() -> bool:
            nonlocal lock
            try:
                check_folder(path, fingerprint, overwrite=overwrite)
                lock = _locked(path)
                known = check_folder(path, fingerprint, overwrite=overwrite)
                marker = {"format": 1, "fingerprint": fingerprint, "asked": dict(asked or {})}
                begun = read_marker(path)
                if not known:
                    if begun is not None:
                        lock = _move_aside(path, lock)
                    _write_marker(path, marker)
                elif begun is not None and begun["fingerprint"] != fingerprint:
                    ended = [*begun.get("ended", []), epochs_of(begun["fingerprint"])]
                    _write_marker(path, marker | {"ended": ended})
                _describe(path, config, environment or {})
            except OSError as error:
                raise UserError(
                    f"cannot write to the output folder {path}: {error.strerror or error}"
                ) from error
            return known

        try:
            resumed = world.once(claim)
            return cls(path, fingerprint, resumed, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps after `step`, and a line that a kill cut short."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                continue
        write_atomic(self.metrics, "".join(kept))


def _describe(path: Path, config: str, environment: dict[str, Any]) -> None:
    remove_partial(path)
    for name in _FOLDERS:
        (path / name).mkdir(exist_ok=True)
        remove_partial(path / name)
    write_atomic(path / "config.yaml", config)
    sessions_path = path / "environment.json"
    sessions = json.loads(sessions_path.read_text()) if sessions_path.exists() else []
    sessions.append(environment_now() | environment)
    write_atomic(sessions_path, json.dumps(sessions, indent=2) + "\n")


def _write_marker(path: Path, marker: Mapping[str, Any]) -> None:
    write_atomic(path / MARKER, json.dumps(marker, indent=2) + "\n")


def read_marker(path: Path) -> dict[str, Any] | None:
    """What was written down when the run in `path` began; None where there is none."""
    marker = path / MARKER
    content: dict[str, Any] | None = json.loads(marker.read_text()) if marker.is_file() else None
    return content


def check_folder(path: Path, fingerprint: dict[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `path` is this run's folder already; nothing is written.

    A finished run may get more epochs (`train.epochs`), and stays this run.

    Raises:
        UserError: it is something else, or could not be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"the output folder {path} is a file")
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the output folder {path}: {above} is not writable")
    marker = read_marker(path)
    if marker is not None:
        before, now = marker["fingerprint"], json.loads(json.dumps(fingerprint))
        changed = difference(before, now)
        if changed and not overwrite and not _lengthens(path, before, now):
            raise UserError(
                f"{path} holds a run of another configuration ({changed}); "
                "choose another output folder, or --overwrite to move that run aside"
            )
        return not overwrite
    # A killed start leaves its lock and a part of the marker, which is the first file written.
    inside = [p.name for p in path.iterdir()] if path.exists() else []
    strangers = [name for name in inside if name != LOCK and not _part_of_marker(name)]
    if strangers:
        raise UserError(
            f"the output folder {path} is not empty and no vistill run "
            f"(it holds {strangers[0]}); choose another one"
        )
    return False


def epochs_of(fingerprint: Mapping[str, Any]) -> int | None:
    """How many epochs the run of that fingerprint has; None where it is no run's."""
    epochs: int | None = fingerprint.get("train", {}).get("epochs")
    return epochs


def _lengthens(path: Path, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether `now` is the finished run in `path` with more epochs, and nothing else.

    Raises:
        UserError: it has other epochs and cannot go on with so many.
    """
    old, new = epochs_of(before), epochs_of(now)
    if old is None or new is None or difference(_with_epochs(before, new), now):
        return False
    if new < old:
        raise UserError(
            f"{path} holds a run of {old} epochs, which train.epochs={new} cannot shorten; choose "
            "another output folder, or --overwrite to move that run aside"
        )
    if now.get("chain"):
        raise UserError(
            f"{path} holds a chain of {old} epochs, and a chain cannot be lengthened: its later "
            "students were taught by the earlier ones as they are; choose another output folder"
        )
    result = path / RESULT
    if not result.is_file() or json.loads(result.read_text(encoding="utf-8"))["epochs"] != old:
        raise UserError(
            f"{path} holds a run of {old} epochs that has not come to its end; finish it with "
            f"train.epochs={old}, then train.epochs={new} lengthens it"
        )
    return True


def _with_epochs(fingerprint: dict[str, Any], epochs: int) -> dict[str, Any]:
    return fingerprint | {"train": fingerprint["train"] | {"epochs": epochs}}


def _part_of_marker(name: str) -> bool:
    return name.startswith(PARTIAL) and name.endswith(MARKER)


def _locked(path: Path) -> FolderLock:
    path.mkdir(parents=True, exist_ok=True)
    return FolderLock.acquire(path)


def _move_aside(path: Path, lock: FolderLock) -> FolderLock:
    """Rename a locked folder and give the lock of a new one."""
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
    lock.folder = target
    lock.release()
    return _locked(path)
