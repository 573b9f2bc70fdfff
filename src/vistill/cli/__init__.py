"""The command line: parses words, calls the function of the same name in `vistill.api`, prints."""

import errno
import os
import time
from typing import Annotated, Any

import typer

from vistill import __version__
from vistill.cli.compare import compare
from vistill.cli.evaluate import evaluate
from vistill.cli.inspect import inspect
from vistill.cli.prepare import prepare
from vistill.cli.pretrain import demo, pretrain
from vistill.cli.rank_teachers import rank_teachers
from vistill.cli.recipes import recipes
from vistill.cli.report import report
from vistill.cli.search import index, search
from vistill.cli.use import embed, export, predict
from vistill.errors import Failure, UserError
from vistill.stopping import Interrupted, heard_or_not

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RANK_PATIENCE = 20.0
"""Seconds that other ranks leave to rank 0 to tell a mistake that all of them have met."""

app = typer.Typer(
    name="vistill",
    help="Distil a large pretrained vision model into a small one that fine-tunes better.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    pretrain,
    evaluate,
    inspect,
    rank_teachers,
    compare,
    report,
    export,
    predict,
    embed,
    index,
    search,
    prepare,
    demo,
):
    app.command()(command)
app.add_typer(recipes, name="recipes")

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
