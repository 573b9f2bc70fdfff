"""The command `rank-teachers`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.cli.words import apart
from vistill.errors import UserError


def rank_teachers(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEACHER... [KEY=VALUE]...",
            help="Two or more: run:PATH, file:PATH, timm/NAME:pretrained; then settings.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Your pictures or clips; labels help.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Name of the student that is to learn, such as vit_tiny.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the numbers to this JSON file, a page beside it.")
    ] = None,
) -> None:
    """Say which teacher to try first, by what its features are like on your own pictures."""
    from vistill import api

    if data is None:
        raise UserError("rank-teachers needs something to look at: give --data PATH")
    teachers, settings = apart(words or ())
    api.say(api.rank_teachers(*teachers, data=data, student=student, out=out, overrides=settings))
