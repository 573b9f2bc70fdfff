"""One cell of a comparison: an ordinary run in a folder of its own, and its measurement."""

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vistill.errors import UserError, first_line
from vistill.files import write_atomic
from vistill.runs.comparison import CellResult
from vistill.stopping import Interrupted

T = TypeVar("T")


class Verbs(NamedTuple):
    """How runs are made and measured: `vistill.api.pretrain` and `vistill.api.evaluate`."""

    pretrain: Callable[..., Any]
    evaluate: Callable[..., Any]


@dataclass(frozen=True)
class Cell:
    """What a cell is asked for.

    Attributes:
        method: or recipe; None: no pre-training.
        seed: of the run and of its measurement.
        epochs, pictures: passes over the pictures, and how many that shows.
        folder: of the cell.
        settings: of the run.
        train, test: labelled pictures; no test: a part of the others.
        protocol, evaluation: how it is measured.
        base: cell whose architecture, with fresh weights, is measured instead of a run.
    """

    method: str | None
    seed: int
    epochs: int
    pictures: int
    folder: str
    settings: tuple[tuple[str, Any], ...]
    train: str
    test: str | None
    protocol: str
    evaluation: tuple[tuple[str, Any], ...]
    base: str | None = None


def get_ready(jobs: int) -> None:
    """Load what cells load, so that the first of them does not pay for it, and take a share of the
    cores where so many processes do."""
    import timm  # noqa: F401
    import torch

    import vistill.runs.measuring
    import vistill.runs.pretraining  # noqa: F401

    if jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def run_cell(cell: Cell, verbs: Verbs) -> CellResult:
    """Do what is missing of a cell; what fails is told in its result, and tried again next time."""
    folder = Path(cell.folder)
    kept, asked = folder / "result.json", json.loads(json.dumps(asdict(cell), default=str))
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["asked"] == asked:
            return CellResult(**found["result"])
    result = _tried(folder, lambda: _measured(cell, verbs))
    if isinstance(result, str):
        return CellResult(cpu=_spent(folder), error=result)
    write_atomic(kept, json.dumps({"asked": asked, "result": asdict(result)}, indent=1) + "\n")
    return result


def passes_within(pilot: Cell, seconds: float, verbs: Verbs) -> int | str:
    """Passes over the pictures that so many processor seconds pay for, by one that is tried; or why
    they pay for none."""
    folder = Path(pilot.folder)
    kept = folder / "seconds.json"
    if not kept.exists():
        failed = _tried(folder, lambda: _pretrained(pilot, verbs))
        if isinstance(failed, str):
            return failed
        write_atomic(kept, json.dumps(_spent(folder)))
    each = json.loads(kept.read_text())
    if each > seconds:
        return (
            f"one pass over the pictures takes {each / 60:.2g} CPU minutes, and the budget is "
            f"{seconds / 60:g}"
        )
    return int(seconds // each)


def _tried(folder: Path, work: Callable[[], T]) -> T | str:
    """What `work` gives, its output in `log.txt`; or why it failed, as the other cells go on."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with quietly(folder / "log.txt"):
            return work()
    except Interrupted:
        raise
    except Exception as error:  # whatever it is, it is told
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return kind + first_line(error)


def _measured(cell: Cell, verbs: Verbs) -> CellResult:
    steps, fresh = 0, cell.base is not None
    if not fresh:
        steps = _pretrained(cell, verbs).steps
    found = verbs.evaluate(
        Path(cell.base or cell.folder) / "run",
        data=cell.train,
        test=cell.test,
        protocols=[cell.protocol],
        seeds=[cell.seed],
        random_init=fresh,
        overrides=dict(cell.evaluation),
    )
    (score,) = found.scores
    facts = (score.top1, score.low, score.high, score.n_test)
    return CellResult(*facts, _spent(Path(cell.folder)), cell.pictures, steps, cell.epochs)


def _pretrained(cell: Cell, verbs: Verbs) -> Any:
    folder, began = Path(cell.folder), _cpu()
    before = _spent(folder)
    try:
        return verbs.pretrain(
            cell.method,
            out=folder / "run",
            overrides={
                "train.report": False,
                **dict(cell.settings),
                "seed": cell.seed,
                "train.epochs": cell.epochs,
            },
        )
    finally:
        write_atomic(folder / "spent.json", json.dumps(before + _cpu() - began))


def _spent(folder: Path) -> float:
    """Processor seconds of pre-training so far, over all sessions."""
    kept = folder / "spent.json"
    return float(json.loads(kept.read_text())) if kept.exists() else 0.0


def _cpu() -> float:
    """Of this process and of the loader processes that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextlib.contextmanager
def quietly(log: Path | None) -> Iterator[None]:
    """What is printed meanwhile goes to a file, or nowhere."""
    with (
        open(log or os.devnull, "a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield
