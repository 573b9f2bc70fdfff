"""`demo`: a student taught by a teacher against the same student alone, on packaged data."""

import os
from pathlib import Path

from vistill.api.demo.comparison import DemoResult


def demo(out: str | os.PathLike[str] = "vistill-demo", *, overwrite: bool = False) -> DemoResult:
    """Distil a small student from a packaged teacher and compare it with the same student alone.

    Both are pre-trained for about the same time on 205 unlabelled photographs of blood smears, then
    fine-tuned on 30 labelled tiles of each of three classes and tested on tiles of other
    photographs; five seeds draw labels, head and order.

    Args:
        out: folder for both runs, their scores and `report.html`; the same folder continues.
        overwrite: move an existing folder aside and start anew.

    Raises:
        UserError: `out` belongs to something else.
    """
    from vistill.api.demo.pictures import PICTURES, picture_sections

    return PICTURES.run(Path(out), picture_sections, overwrite=overwrite)
