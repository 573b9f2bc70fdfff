"""The commands `recipes list`, `show` and `copy`."""

from pathlib import Path
from typing import Annotated

import typer

recipes = typer.Typer(help="The papers' settings: list, show, copy.", rich_markup_mode=None)


@recipes.command("list")
def recipes_list() -> None:
    """Name every recipe with what it is."""
    from vistill import api

    titles = api.recipes.list()
    for name, title in titles.items():
        typer.echo(f"{name:<{max(map(len, titles))}}  {title}")


@recipes.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Name of the recipe.")]) -> None:
    """Print a recipe."""
    from vistill import api

    typer.echo(api.recipes.show(name), nl=False)


@recipes.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe.")],
    path: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
) -> None:
    """Write a recipe to a file of your own, to change it there."""
    from vistill import api

    typer.echo(str(api.recipes.copy(name, path)))
