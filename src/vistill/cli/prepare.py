"""The command for collections of videos: `prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.errors import UserError


def prepare(
    source: Annotated[
        str | None,
        typer.Argument(help="Videos: a folder, list, .tar shards or .zip; none with --format."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the index and new files.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="A published collection: k400 (k600, k700), ssv2, ucf101, hmdb51, mit, ava, "
            "rawframes, videofolder or webdataset."
        ),
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Its official file; several by a glob or their folder.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test of it; default: all.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="File of the names of classes that have numbers.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode three frames of every video, not all.")
    ] = False,
    transcode: Annotated[
        bool, typer.Option("--transcode", help="Re-encode into a form that is quick to train on.")
    ] = False,
    short_side: Annotated[
        int | None, typer.Option(help="Pixels of the shorter side; default: 256.")
    ] = None,
    gop: Annotated[
        int | None, typer.Option(help="Frames from one key frame to the next; default: 8.")
    ] = None,
    codec: Annotated[str | None, typer.Option(help="h264, hevc or vp9; default: h264.")] = None,
    quality: Annotated[
        int | None, typer.Option(help="Constant rate factor, less is better; default: 23.")
    ] = None,
    shards: Annotated[
        float | None, typer.Option(help="Pack the new files into .tar shards of so many MB.")
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="Where relative paths of a list start; default: beside it. With --format the "
            "folder of the videos."
        ),
    ] = None,
    max_damaged: Annotated[
        float | None,
        typer.Option(help="Share of damaged frames that makes a problem; default: 0.1."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds without a sign of life after which a video is given up, and as many more "
            "for every GB of it; default: 300."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one a core, at most 8.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where DIR was prepared otherwise.")
    ] = False,
) -> None:
    """Verify a collection of videos, write an index of it, re-encode it for training."""
    from vistill import api

    if out is None:
        raise UserError("prepare needs a folder to write to: give --out DIR")
    api.say(
        api.prepare(
            source,
            out=out,
            format=format,
            annotations=annotations,
            split=split,
            classes=classes,
            quick=quick,
            transcode=transcode,
            short_side=short_side,
            gop=gop,
            codec=codec,
            quality=quality,
            shards=shards,
            root=root,
            max_damaged=max_damaged,
            timeout=timeout,
            workers=workers,
            overwrite=overwrite,
        )
    )
