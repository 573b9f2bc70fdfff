"""The command `report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Folders of runs, finished or not."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; default: report.html in the folder of the run."),
    ] = None,
) -> None:
    """Write the page of a run again, or one of several runs laid over each other."""
    from vistill import api

    api.say(api.report(*(runs or ()), out=out))
