"""From a recipe or method name and overrides to a validated `RunConfig`; never imports torch."""

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vistill.config.overrides import Overrides, apply_overrides, canonical, taken_back
from vistill.config.problems import explain, sections
from vistill.config.schema import RunConfig
from vistill.config.section import Section
from vistill.config.suggest import did_you_mean, shown
from vistill.config.uses import why_idle
from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.files import near_path

M = TypeVar("M", bound=Section)


def method_names() -> list[str]:
    """Names of the pre-training methods."""
    return sorted(str(name) for name in sections(RunConfig.model_fields["method"].annotation))


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    folder = files("vistill") / "recipes"
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML text of a packaged recipe, comments included.

    Raises:
        UserError: there is no such recipe; the nearest name is told.
    """
    if name not in recipe_names():
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")
    return (files("vistill") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def load_config(recipe: str | os.PathLike[str] | None, overrides: Overrides) -> RunConfig:
    """The configuration of a pre-training run.

    Args:
        recipe: name of a method (its defaults), of a packaged recipe, or path of a YAML file; None
            starts from the defaults.
        overrides: settings laid over it, see `vistill.config.overrides`. `method=NAME` replaces the
            whole method section; `method.name=NAME` keeps the recipe's keys, which must then fit.

    Raises:
        UserError: nothing of that name, or every problem of the settings in one sentence.
    """
    raw = _recipe(str(recipe)) if recipe is not None else {}
    written = recipe if recipe not in method_names() else None
    return build_config(RunConfig, raw, overrides, written)


def said_settings(recipe: str | os.PathLike[str] | None, overrides: Overrides) -> set[str]:
    """The settings, with dots, that the user said: as overrides, or in a recipe file of one's own.

    Raises:
        UserError: see `load_config`.
    """
    said = set(canonical(RunConfig, overrides).values)
    if recipe is not None and str(recipe) not in (*method_names(), *recipe_names()):
        raw = _recipe(str(recipe))
        said |= set(canonical(RunConfig, raw.items(), empty_sections=True).values)
    return {".".join(path) for path in said}


def build_config(
    schema: type[M], raw: Mapping[str, Any], overrides: Overrides, origin: object = None
) -> M:
    """Lay `overrides` over the nested mapping `raw` and validate the result as `schema`.

    Raises:
        UserError: names every problem, with the nearest right spelling, and `origin` where the
            setting stands there.
    """
    said = canonical(schema, overrides)
    try:
        recipe = canonical(schema, raw.items(), empty_sections=True)
    except UserError as error:
        raise UserError(f"{error} (in {origin})") from None
    defaults = schema().model_dump()
    settings = apply_overrides(recipe, said, defaults, taken_back(schema, said))
    if isinstance(settings.get("method"), dict):
        settings["method"].setdefault("name", defaults.get("method", {}).get("name"))
    try:
        config = schema.model_validate(settings)
    except ValidationError as error:
        given = {".".join(path) for path in said.values}
        problems = [
            text if origin is None or key in given else f"{text} (in {origin})"
            for key, text in explain(error, schema)
        ]
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        hint = ""
        if ("method", "name") in said.values and ("method",) not in said.anew and "method" in raw:
            name = said.values["method", "name"]
            hint = f"; write method={name} to drop the recipe's method section"
        raise UserError(count + "; ".join(problems) + hint) from None
    for path, value in said.values.items():
        why = None if value is None else why_idle(config, path)
        if why is not None:
            raise UserError(f"{'.'.join(path)}={shown(value)} has no use {why}")
    return config


def _recipe(name: str) -> dict[str, Any]:
    if name in method_names():
        return {"method": {"name": name}}
    if name in recipe_names():
        text = recipe_text(name)
    elif name.endswith((".yaml", ".yml", ".json")) or os.sep in name:
        if not Path(name).is_file():
            raise UserError(f"recipe {name} does not exist{near_path(name)}")
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"recipe {name} is no text") from None
    else:
        known = [*method_names(), *recipe_names()]
        raise UserError(f"unknown method or recipe {name!r}{did_you_mean(name, known)}")
    content = load_yaml(text, name)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"recipe {name} must hold sections like 'optim:', not {content!r:.60}")
    return content
