"""The packaged recipes: the papers' settings, with their source and the number to reach."""

import os
from pathlib import Path

from vistill.config.loading import recipe_names, recipe_text
from vistill.errors import UserError


def list() -> dict[str, str]:
    """Every recipe's name with the first sentence of its description."""
    return {name: _title(recipe_text(name)) for name in recipe_names()}


def show(name: str) -> str:
    """The text of a recipe, comments included."""
    return recipe_text(name)


def copy(name: str, path: str | os.PathLike[str]) -> Path:
    """Write a recipe to `path` (a new `.yaml` file, or a folder) and return the file.

    Raises:
        UserError: unknown recipe, or the file exists.
    """
    text = recipe_text(name)
    target = Path(path)
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} must end in .yaml, so that pretrain knows it as a recipe")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{target} exists already") from None
    except FileNotFoundError:
        raise UserError(f"folder {target.parent} does not exist") from None
    return target


def _title(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ").partition(". Source")[0].rstrip(".")
