"""The command line: parses words, calls the function of the same name in `vistill.api`, prints."""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vistill import __version__
from vistill.errors import Failure, UserError
from vistill.stopping import Interrupted, heard_or_not

N = TypeVar("N", int, float)

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RANK_PATIENCE = 20.0
"""Seconds that other ranks leave to rank 0 to tell a mistake that all of them have met."""

app = typer.Typer(
    name="vistill",
    help="Distil a large pretrained vision model into a small one that fine-tunes better.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="The papers' settings: list, show, copy.", rich_markup_mode=None)
app.add_typer(recipes_app, name="recipes")

# typer exports only this subclass of the class that all its usage errors have.
_UsageError: Any = typer.BadParameter.__base__


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"vistill {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
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


@app.command()
def evaluate(
    backbone: Annotated[
        str, typer.Argument(help="A run folder, run:PATH, file:PATH, timm/NAME[:pretrained].")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Evaluation settings.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled pictures; subfolders train/ and val/ or test/ are used."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Test pictures; default: a stratified part of --data.")
    ] = None,
    protocols: Annotated[
        str | None,
        typer.Option(help="Any of knn,linear,finetune; test; or detection; default: knn,linear."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Label budgets: shares such as 0.01,0.1,1, or 5/class; default: 1."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; default: 0.")] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Same architecture with fresh weights.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file.")] = None,
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
        protocols=None if protocols is None else _split(protocols),
        labels=None if labels is None else _budgets(labels),
        seeds=None if seeds is None else _numbers(seeds, "--seeds", int),
        random_init=random_init,
        out=out,
        model=model,
        overrides=overrides or (),
    )
    typer.echo(str(result))


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_BACKBONE", help="What to export.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    format: Annotated[
        str, typer.Option(help="timm, torch, onnx, or the published mae, videomae.")
    ] = "timm",
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
        source, out=out, format=format, which=which, random_init=random_init, model=model
    )
    for path in files:
        typer.echo(str(path))


@app.command()
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


@app.command()
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


@recipes_app.command("list")
def recipes_list() -> None:
    """Name every recipe with what it is."""
    from vistill import api

    titles = api.recipes.list()
    for name, title in titles.items():
        typer.echo(f"{name:<{max(map(len, titles))}}  {title}")


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Name of the recipe.")]) -> None:
    """Print a recipe."""
    from vistill import api

    typer.echo(api.recipes.show(name), nl=False)


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe.")],
    path: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
) -> None:
    """Write a recipe to a file of your own, to change it there."""
    from vistill import api

    typer.echo(str(api.recipes.copy(name, path)))


@app.command()
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


@app.command()
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Move an existing demo aside and start anew.")
    ] = False,
) -> None:
    """Distil a small student on packaged pictures or clips and compare it with one taught by
    nobody."""
    from vistill import api

    api.say(api.demo(out=out, video=video, overwrite=overwrite))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _budgets(text: str) -> list[float | str]:
    return [part if "/" in part else _numbers(part, "--labels", float)[0] for part in _split(text)]


def _numbers(text: str, option: str, kind: Callable[[str], N]) -> list[N]:
    try:
        return [kind(part) for part in _split(text)]
    except ValueError:
        raise UserError(f"{option} must be numbers separated by commas, not {text!r}") from None


def main(words: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: the work stopped on a fault or the disk is full; 2: the user can mend it; one
    sentence on stderr either way. 129, 130 and 143: interrupted after saving. Other exceptions keep
    their traceback.
    """
    with heard_or_not():
        return _run(words)


def _run(words: list[str] | None) -> int:
    try:
        code = app(words, standalone_mode=False)
    except UserError as error:
        return _fail(str(error), 2)
    except _UsageError as error:
        return _fail(error.format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except Interrupted as stop:
        if _rank() == 0:
            typer.echo(str(stop), err=True)
        return stop.exit_code
    except Failure as error:
        return _fail(str(error), 1)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        return _fail(f"cannot write {error.filename or 'a file'}: {error.strerror}", 1)
    return code if isinstance(code, int) else 0


def _rank() -> int:
    """Which of `torchrun`'s ranks this process is."""
    return int(os.environ.get("RANK", "0"))


def _fail(message: str, code: int) -> int:
    if _rank() > 0:
        time.sleep(_RANK_PATIENCE)  # where rank 0 failed too, torchrun ends this process meanwhile
        message = f"rank {_rank()}: {message}"
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
