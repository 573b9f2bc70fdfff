"""The commands that train: `pretrain` and `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.errors import UserError


def pretrain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METHOD_OR_RECIPE] [KEY=VALUE]...",
            help="A method, a recipe (see 'vistill recipes list') or a .yaml file; then settings "
            "laid over it, such as optim.lr=1e-3 or method.relation.pairs=[qk,vv].",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Pictures or videos: a folder, list (.txt .csv .tsv .jsonl .parquet), .tar shards "
            "or .zip."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same resumes.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="timm/NAME[:pretrained], run:PATH, file:PATH or FILE.py:FUNCTION."),
    ] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help="'random' for a teacher without pretrained weights.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(help="vit_small, ..., timm/NAME or FILE.py:FUNCTION; a,b share one teacher."),
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(help="Students a,b,c of a sequential distillation, largest first."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Move an existing run aside and start anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the settings, write nothing.")
    ] = False,
) -> None:
    """Pre-train a student, with a teacher where the method has one."""
    from vistill import api

    names = [word for word in words or [] if "=" not in word]
    if len(names) > 1:
        raise UserError(
            f"{names[1]!r} is neither key=value nor the method or recipe, which is {names[0]!r}"
        )
    if out is None:
        raise UserError("pretrain needs a folder to write to: give --out DIR")
    result = api.pretrain(
        names[0] if names else None,
        data=data,
        out=out,
        teacher=teacher,
        teacher_weights=teacher_weights,
        student=student,
        chain=chain,
        overwrite=overwrite,
        dry_run=dry_run,
        overrides=[word for word in words or [] if "=" in word],
    )
    if result is not None:
        api.say(result)


def demo(
    video: Annotated[
        bool, typer.Option("--video", help="On clips, by AMD, instead of pictures, by TinyMIM.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the runs and their report; default: vistill-demo, on clips "
            "vistill-demo-video."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(help="Of the measurement; fewer are quicker, and their intervals wider."),
    ] = 5,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Move an existing demo aside and start anew.")
    ] = False,
) -> None:
    """Distil a small student on packaged pictures or clips and compare it with one taught by
    nobody."""
    from vistill import api

    api.say(api.demo(out=out, video=video, seeds=seeds, overwrite=overwrite))
