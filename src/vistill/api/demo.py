"""`demo`: a student taught by a teacher against the same student alone, on packaged data."""

import os
from pathlib import Path

from vistill.api.evaluate import evaluate
from vistill.api.pretrain import pretrain
from vistill.errors import UserError
from vistill.locking import LOCK, locked
from vistill.runs.demo.comparison import DemoResult
from vistill.runs.results import say


def demo(
    out: str | os.PathLike[str] | None = None,
    *,
    video: bool = False,
    seeds: int = 5,
    overwrite: bool = False,
) -> DemoResult:
    """Distil a small student from a packaged teacher and compare it with the same student alone.

    On pictures: both are pre-trained for about the same time on 205 unlabelled photographs of blood
    smears, then fine-tuned on 30 labelled tiles of each of three classes and tested on tiles of
    other photographs; seeds draw labels, head and order. On clips: windows that travel over
    those photographs are filmed first, the label is the motion, and a linear probe measures.

    Args:
        out: folder for both runs, their scores and `report.html`; the same folder continues.
            None: `vistill-demo`, on clips `vistill-demo-video`.
        video: on clips (AMD and VideoMAE) instead of pictures (TinyMIM and MAE).
        seeds: of the measurement; fewer are quicker, and their intervals wider.
        overwrite: move existing runs aside and start anew.

    Raises:
        UserError: `out` belongs to something else; fewer than 2 seeds, which have no interval.
    """
    if seeds < 2:
        raise UserError(f"--seeds must be 2 or more, as one has no interval; {seeds} was given")
    folder = Path(out if out is not None else f"vistill-demo{'-video' if video else ''}")
    clips = folder / "clips"
    if video and (folder.is_file() or (_holds_something(folder) and not clips.is_dir())):
        raise UserError(f"{folder} belongs to something else; choose another --out")
    with locked(folder):
        if video:
            from vistill.runs.demo.clips import clip_sections, comparison, film

            say(f"filming {clips}")
            film(clips)
            compared, show = comparison(folder), lambda: clip_sections(clips)
        else:
            from vistill.runs.demo.pictures import PICTURES, picture_sections

            compared, show = PICTURES, picture_sections
        return compared.run(folder, show, pretrain, evaluate, seeds=seeds, overwrite=overwrite)


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
