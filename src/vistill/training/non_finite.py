"""The end of a run whose loss or gradient is not finite: the samples of that step are named."""

import json
from pathlib import Path
from typing import NoReturn

from vistill.files import write_atomic
from vistill.training.distributed import World
from vistill.training.errors import TrainingError


def refuse_non_finite(step: int, ids: list[int], folder: Path | None, world: World) -> NoReturn:
    """Write `non_finite.json` with the samples of a step, and raise.

    Args:
        step: the first that was not finite, from 0.
        ids: its samples on all ranks.
        folder: of the run; None writes nothing.
        world: the ranks, which all call this.

    Raises:
        TrainingError: always.
    """
    where = ""
    if folder is not None:
        path = folder / "non_finite.json"
        text = json.dumps({"step": step + 1, "ids": ids}) + "\n"
        world.once(lambda: write_atomic(path, text))
        where = f" (all {len(ids)} in {path})"
    shown = ", ".join(map(str, ids[:16])) + (", …" if len(ids) > 16 else "")
    raise TrainingError(
        f"loss or gradient is not finite at step {step + 1}, whose batch holds the samples "
        f"{shown}{where}; the run stops here, and no checkpoint holds such weights"
    )
