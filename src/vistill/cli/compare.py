"""The command `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.cli.evaluate import numbers, split
from vistill.cli.words import apart
from vistill.errors import UserError


def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD... [KEY=VALUE]...",
            help="Methods or recipes; then settings of all runs, METHOD.KEY=VALUE of one method's, "
            "evaluate.KEY=VALUE of evaluations.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled pictures or clips; subfolders train/ and val/ or test/."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; the same goes on.")
    ] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="As of pretrain; may be given several times.")
    ] = None,
    student: Annotated[
        str, typer.Option(help="Students, separated by commas: vit_tiny,timm/resnet18.")
    ] = "vit_small",
    test: Annotated[str | None, typer.Option(help="Labelled pictures to test on.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget of a run: optimiser steps.")] = None,
    pictures: Annotated[int | None, typer.Option(help="Budget of a run: pictures shown.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Budget of a run: minutes of a processor.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds; several give intervals.")] = "0,1,2",
    protocol: Annotated[str, typer.Option(help="knn, linear or finetune.")] = "knn",
    yardsticks: Annotated[
        bool,
        typer.Option(
            "--yardsticks",
            help="Add no pre-training, labels alone (equal steps, equal cost), logit_kd, "
            "relation_kd.",
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Compare methods, teachers and students on your own pictures under one budget."""
    from vistill import api

    if data is None:
        raise UserError("compare needs labelled pictures: give --data PATH")
    if out is None:
        raise UserError("compare needs a folder to write to: give --out DIR")
    methods, settings = apart(words or ())
    result = api.compare(
        *methods,
        data=data,
        out=out,
        teachers=teacher or (),
        students=split(student),
        test=test,
        steps=steps,
        pictures=pictures,
        minutes=minutes,
        seeds=numbers(seeds, "--seeds", int),
        protocol=protocol,  # type: ignore[arg-type]
        yardsticks=yardsticks,
        jobs=jobs,
        overrides=settings,
    )
    api.say(result)
