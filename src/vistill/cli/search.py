"""The commands that find pictures and clips: `index` and `search`."""

from pathlib import Path
from typing import Annotated

import typer

from vistill.errors import UserError


def index(
    data: Annotated[
        str,
        typer.Argument(help="Pictures or clips: a folder, list, .tar shards or .zip."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of reading.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A run folder, file:PATH, timm/NAME:pretrained; with text open_clip/NAME:TAG, "
            "hf/NAME:pretrained or hf/FOLDER."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the index; the same is brought up to date.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Cut clips into spans of so many seconds.")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(help="Seconds from one span to the next; default: --window.")
    ] = None,
) -> None:
    """Make a folder of pictures or clips searchable; again, for what is new, changed or deleted."""
    from vistill import api

    if model is None or out is None:
        raise UserError("index needs a model and a folder: give --model MODEL --out DIR")
    words = overrides or ()
    api.say(api.index(data, model=model, out=out, window=window, stride=stride, overrides=words))


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SENTENCE] [KEY=VALUE]...",
            help="What to look for, in quotes; then settings, such as device=cpu.",
        ),
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Folder that vistill index wrote.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="A picture or clip to look for; needs no text.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many to find.")] = 10,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="By a graph, for millions; needs the extra vistill[search]."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures to this file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model of the index, where it has been moved.")
    ] = None,
) -> None:
    """Find pictures or clips by a sentence, or by what is like them."""
    from vistill import api

    if index is None:
        raise UserError("search needs an index: give --index DIR (vistill index makes one)")
    sentences = [word for word in words or [] if not _is_setting(word)]
    if len(sentences) > 1:
        raise UserError(
            f"{len(sentences)} words say what to look for; put the sentence in quotes: "
            f'"{" ".join(sentences)}"'
        )
    found = api.search(
        sentences[0] if sentences else None,
        index=index,
        like=like,
        top=top,
        approximate=approximate,
        html=html,
        model=model,
        overrides=[word for word in words or [] if _is_setting(word)],
    )
    typer.echo(found.to_json() if json else str(found), nl=not json)
    if html is not None:
        typer.echo(str(html), err=json)


def _is_setting(word: str) -> bool:
    """Whether a word is KEY=VALUE; a sentence that holds `=` has spaces in front of it."""
    key, equals, _ = word.partition("=")
    return bool(equals) and " " not in key
