"""A run is a folder that explains itself; the same command with the same folder resumes it."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from vistill.errors import UserError
from vistill.files import PARTIAL, remove_partial, write_atomic
from vistill.training.distributed import World

MARKER = "vistill.json"
_PACKAGES = ("vistill", "torch", "torchvision", "timm", "numpy", "Pillow", "simplejpeg")
_FOLDERS = ("checkpoints", "tensorboard", "export")


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


def _environment() -> dict[str, Any]:
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

    def __init__(self, path: Path, fingerprint: dict[str, Any], resumed: bool) -> None:
        self.path, self.fingerprint, self.resumed = path, fingerprint, resumed

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
        overwrite: bool = False,
        environment: dict[str, Any] | None = None,
    ) -> "RunFolder":
        """Create the folder, or recognise it as this run's own; nothing is written before a check.

        Args:
            path: the folder; parents are created.
            fingerprint: plain data that defines the run, without what may change on a resume.
            config: text of `config.yaml`.
            world: all ranks open together, rank 0 does the work.
            overwrite: move a run of another configuration aside (`PATH.old-1`) and start anew.
            environment: further facts for `environment.json`, such as the origin of a teacher.

        Raises:
            UserError: the folder holds something else, or a run of another configuration.
        """
        path = Path(path)
        fingerprint = json.loads(json.dumps(fingerprint))

        def claim() -> bool:
            try:
                resumed = _claim(path, fingerprint, overwrite)
                _describe(path, config, environment or {})
            except OSError as error:
                raise UserError(
                    f"cannot write to the output folder {path}: {error.strerror or error}"
                ) from error
            return resumed

        return cls(path, fingerprint, world.once(claim))

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
    sessions.append(_environment() | environment)
    write_atomic(sessions_path, json.dumps(sessions, indent=2) + "\n")


def check_folder(path: Path, fingerprint: dict[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `path` is this run's folder already; nothing is written.

    Raises:
        UserError: it is something else, or could not be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"the output folder {path} is a file")
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the output folder {path}: {above} is not writable")
    marker = path / MARKER
    if marker.exists():
        fingerprint = json.loads(json.dumps(fingerprint))
        changed = difference(json.loads(marker.read_text())["fingerprint"], fingerprint)
        if changed and not overwrite:
            raise UserError(
                f"{path} holds a run of another configuration ({changed}); "
                "choose another output folder, or --overwrite to move that run aside"
            )
        return not overwrite
    # The marker is the first file written: a partial one is all a killed start can leave.
    partial = f"{PARTIAL}{MARKER}"
    strangers = [p.name for p in path.iterdir() if p.name != partial] if path.exists() else []
    if strangers:
        raise UserError(
            f"the output folder {path} is not empty and no vistill run "
            f"(it holds {strangers[0]}); choose another one"
        )
    return False


def _claim(path: Path, fingerprint: dict[str, Any], overwrite: bool) -> bool:
    """Make `path` this run's folder; whether it was already."""
    if check_folder(path, fingerprint, overwrite=overwrite):
        return True
    marker = path / MARKER
    if marker.exists():
        _move_aside(path)
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(marker, json.dumps({"format": 1, "fingerprint": fingerprint}, indent=2) + "\n")
    return False


def _move_aside(path: Path) -> None:
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
