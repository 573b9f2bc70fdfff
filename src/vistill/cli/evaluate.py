"""The command that measures: `evaluate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vistill.errors import UserError

N = TypeVar("N", int, float)


def evaluate(
    backbone: Annotated[
        str, typer.Argument(help="A run folder, run:PATH, file:PATH, timm/NAME[:pretrained].")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Evaluation settings.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled pictures, for retrieval with captions; subfolders train/ and val/ or "
            "test/ are used."
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Test pictures; default: a stratified part of --data.")
    ] = None,
    protocols: Annotated[
        str | None,
        typer.Option(
            help="Any of knn,linear,finetune; or alone test, robustness, detection, segmentation, "
            "boxes, retrieval, multiple-choice, questions; default: knn,linear."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Label budgets: shares such as 0.01,0.1,1, or 5/class; default: 1."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; default: 0.")] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Same architecture with fresh weights.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the scores to this JSON file, a page beside it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION that makes your own module of the run.")
    ] = None,
) -> None:
    """Measure a backbone by nearest neighbours, linear probe or fine-tuning."""
    from vistill import api

    if data is None:
        raise UserError("evaluate needs labelled pictures: give --data PATH")
    result = api.evaluate(
        backbone,
        data=data,
        test=test,
        protocols=None if protocols is None else split(protocols),
        labels=None if labels is None else _budgets(labels),
        seeds=None if seeds is None else numbers(seeds, "--seeds", int),
        random_init=random_init,
        out=out,
        model=model,
        overrides=overrides or (),
    )
    api.say(result)


def split(text: str) -> list[str]:
    """Words separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _budgets(text: str) -> list[float | str]:
    return [part if "/" in part else numbers(part, "--labels", float)[0] for part in split(text)]


def numbers(text: str, option: str, kind: Callable[[str], N]) -> list[N]:
    """Numbers separated by commas; a UserError where `option` has others."""
    try:
        return [kind(part) for part in split(text)]
    except ValueError:
        raise UserError(f"{option} must be numbers separated by commas, not {text!r}") from None
