"""Where metrics go: JSON lines always, TensorBoard, W&B and MLflow by name."""

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.training.errors import TrainingError
from vistill.training.run_folder import RunFolder


class Logger(Protocol):
    """Takes named numbers at a step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` for `step`, counted from 1."""

    def close(self) -> None:
        """Flush and let go."""


class JsonLines:
    """One object per line in `metrics.jsonl`."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.metrics
        self._file = run.metrics.open("ab", buffering=0)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line, on the disk before this returns."""
        try:
            self._file.write((json.dumps({"step": step} | values) + "\n").encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TrainingError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files in `tensorboard/`; those after the resumed step are hidden."""

    def __init__(self, run: RunFolder, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One scalar per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"train.loggers names {name}, which is not installed: pip install vistill[{name}]"
        ) from error


def _read_or_write(file: Path, new: str) -> str:
    """The identifier in `file`; a new one is written there first."""
    if not file.exists():
        write_atomic(file, new)
    return file.read_text()


class WandB:
    """A Weights & Biases run named after the folder; a resumed run continues it."""

    def __init__(self, run: RunFolder) -> None:
        wandb = _extra("wandb")
        self._run = wandb.init(
            project="vistill",
            name=run.path.name,
            dir=str(run.path),
            id=_read_or_write(run.path / "wandb.id", wandb.util.generate_id()),
            resume="allow",
            config=run.fingerprint,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """An MLflow run named after the folder; a resumed run continues it."""

    def __init__(self, run: RunFolder) -> None:
        self._mlflow = _extra("mlflow")
        file = run.path / "mlflow.id"
        if file.exists():
            self._mlflow.start_run(run_id=file.read_text())
        else:
            started = self._mlflow.start_run(run_name=run.path.name)
            write_atomic(file, started.info.run_id)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def open_loggers(run: RunFolder, names: Sequence[str], step: int) -> list[Logger]:
    """JSON lines and the named loggers, for a run that continues after `step`."""
    run.forget_after(step)
    loggers: list[Logger] = [JsonLines(run)]
    if "tensorboard" in names:
        loggers.append(TensorBoard(run, step))
    if "wandb" in names:
        loggers.append(WandB(run))
    if "mlflow" in names:
        loggers.append(MLflow(run))
    return loggers


def require_loggers(names: Sequence[str]) -> None:
    """Raise the UserError of a logger that is not installed, before any work."""
    for name in names:
        if name != "tensorboard":
            _extra(name)
