"""The commands that use a trained model: `export`, `predict` and `embed`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.errors import UserError


def export(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_BACKBONE", help="What to export.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    format: Annotated[
        str,
        typer.Option(help="timm, transformers, torch, onnx, or the published mae, videomae, umt."),
    ] = "timm",
    precision: Annotated[str, typer.Option(help="Of an ONNX file: fp32, fp16 or int8.")] = "fp32",
    calibrate: Annotated[
        str | None, typer.Option(help="Pictures on which int8 is calibrated.")
    ] = None,
    which: Annotated[
        str | None, typer.Option(help="best or last of a run; default: best where there is one.")
    ] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Allow weights that nobody trained.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION that makes your own module of the run.")
    ] = None,
) -> None:
    """Write a trained backbone for use elsewhere."""
    from vistill import api

    if out is None:
        raise UserError("export needs a folder to write to: give --out DIR")
    files = api.export(
        source,
        out=out,
        format=format,
        precision=precision,  # type: ignore[arg-type]
        calibrate=calibrate,
        which=which,
        random_init=random_init,
        model=model,
    )
    for path in files:
        typer.echo(str(path))


def predict(
    model: Annotated[
        str, typer.Argument(help="A fine-tuned model: a folder of finetune.keep or of export.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of reading.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures, or clips for a model of clips.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="FILE.csv or FILE.parquet.")] = None,
    top_k: Annotated[int, typer.Option(help="Classes told of every sample.")] = 5,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Write the likeliest classes of pictures or clips, with their probabilities."""
    from vistill import api

    if data is None or out is None:
        raise UserError("predict needs samples and a file to write: give --data PATH --out FILE")
    words = overrides or ()
    api.say(
        api.predict(model, data=data, out=out, top_k=top_k, overwrite=overwrite, overrides=words)
    )


def embed(
    model: Annotated[
        str, typer.Argument(help="A run folder, run:PATH, file:PATH, timm/NAME[:pretrained].")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of reading.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures, or clips for a model of clips.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="FILE.parquet, FILE.npz or FILE.npy (a memory map).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Write the features of pictures or clips."""
    from vistill import api

    if data is None or out is None:
        raise UserError("embed needs samples and a file to write: give --data PATH --out FILE")
    words = overrides or ()
    api.say(api.embed(model, data=data, out=out, overwrite=overwrite, overrides=words))
