"""The command `inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.cli.words import apart
from vistill.errors import UserError


def inspect(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Run folders, run:PATH, file:PATH, timm/NAME:pretrained; then settings, such as "
            "pictures=500.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures, or clips for models of clips.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, inspect.json and inspect.npz.")
    ] = None,
    landscape: Annotated[
        bool,
        typer.Option(
            "--landscape",
            help="Also the loss around the weights, of a classifier or of a run's pre-training.",
        ),
    ] = False,
) -> None:
    """Look inside models: attention and tokens of every layer, and where two of them differ."""
    from vistill import api

    if data is None:
        raise UserError("inspect needs something to look at: give --data PATH")
    models, settings = apart(words or ())
    api.say(api.inspect(*models, data=data, out=out, landscape=landscape, overrides=settings))
