"""`report`: the page of runs, made again."""

import os
from pathlib import Path


def report(*runs: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the HTML page of a run, or of several laid over each other (see docs/runs.md).

    Args:
        runs: folders of runs, finished or not.
        out: the page; None: `report.html` in the folder of the only run.

    Raises:
        UserError: something to mend.
    """
    from vistill.runs.reports.remaking import remake

    return remake([os.fspath(run) for run in runs], None if out is None else Path(out))
