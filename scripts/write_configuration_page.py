"""Write docs/configuration.md from the typed configuration: every key, its default and meaning;
and into the page of every method what its section holds.

python scripts/write_configuration_page.py
"""

import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vistill.config.clip_recipes import CLIP_RECIPES
from vistill.config.evaluation import EvaluateConfig
from vistill.config.finetune import FINETUNE_RECIPES
from vistill.config.problems import sections
from vistill.config.schema import RunConfig
from vistill.config.uses import Such, needs_of

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
METHODS = PAGE.parent / "methods"
BEGIN, END = "<!-- settings: scripts/write_configuration_page.py -->\n", "<!-- end -->\n"
INTRODUCTION = """\
# Configuration

Every setting of `vistill pretrain` and `vistill evaluate`, with its default. This page is written
by `python scripts/write_configuration_page.py` from the typed configuration in
`src/vistill/config`.

A run's settings come from three places, later ones winning:

1. the defaults below;
2. a method (`tinymim`), a packaged recipe (`tinymim_small`, see `vistill recipes list`) or a YAML
   file of your own;
3. words `section.key=value` on the command line, and the options (`--data` is `data.train`,
   `--teacher` is `teacher.model`, `--teacher-weights` is `teacher.weights`, `--student` is
   `student.model`, or of several names `students`, `--chain` is `chain`). Giving a setting twice is
   an error.

```sh
vistill recipes copy tinymim_small mine.yaml
vistill pretrain mine.yaml --data pictures --teacher run:runs/teacher --out runs/student \\
    train.epochs=100 'method.relation.pairs=[qq,kk,vv]' optim.betas.1=0.99
```

Values follow YAML 1.2: `3e-4` is a number, `no` is a word, `null` is nothing. Quote lists for the
shell. One item of a list is set by its number, counted from 0. The order of words never matters.

Settings are written alike on the command line, in a file and from Python, where they are a list of
words or a mapping: `train.epochs=100`, `train: {epochs: 100}`, `overrides={"train.epochs": 100}`. A
mapping for a section sets what it names and leaves the rest. One word for a whole section is its
natural setting, where it has one: `student=vit_tiny` is `student.model`, and so for `teacher` and
each of `students`; `cache=DIR` is `cache.path`, `finetune=mae_base` and `detection=ava_small` are
their `recipe`. `method=mae` replaces the whole method section of a recipe; `method.name=mae` keeps
its other keys, which must then be MAE's too. Any other value for a section is an error.

An unknown key is an error that names the nearest one. Nothing is ignored: a word for a setting that
has no use beside the others ("Only with" below) is an error too, and where a file holds such a
setting, the run says so. The settings of a run are
written to `config.yaml` in its folder, which `pretrain` takes as a recipe again.
"""
EVALUATE = """\
`model`, `weights`, `train`, `test`, `protocols`, `budgets` and `seeds` are set by the command's
argument and its options `--random-init`, `--data`, `--test`, `--protocols` (default there:
`knn,linear`), `--labels` and `--seeds`.
"""
RECIPES = """\
`small` is the column of defaults above, which also holds where a recipe has a dash. Batch, learning
rate, layer decay and drop path of `tinymim_small` and `tinymim_tiny` are ours: their authors
published none. So are the grid and the normalisation of `kdep_sweep`.
"""


def bounds(metadata: list[Any]) -> str:
    """The tightest lower and upper bound: `> 0 and ≤ 1`."""
    low: tuple[float, str] | None = None
    high: tuple[float, str] | None = None
    for item in metadata:
        match item:
            case annotated_types.Gt(gt=bound):
                low = (bound, ">")
            case annotated_types.Ge(ge=bound) if low is None:
                low = (bound, "≥")
            case annotated_types.Lt(lt=bound):
                high = (bound, "<")
            case annotated_types.Le(le=bound) if high is None:
                high = (bound, "≤")
    return " and ".join(f"{sign} {bound:g}" for bound, sign in filter(None, (low, high)))


def kind(annotation: Any) -> str:
    """What values a setting takes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of_values(arguments[0], flattened(arguments[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(part) for part in arguments)
    if origin is tuple:
        if get_origin(arguments[0]) is tuple:
            return "list of pairs of text"
        number = "" if Ellipsis in arguments else f"{len(arguments)} × "
        return f"list of {number}{kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    return "`null`" if annotation is type(None) else names[annotation]


def flattened(metadata: Any) -> list[Any]:
    """Bounds, also of a pydantic field inside an annotation."""
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def kind_of_values(annotation: Any, metadata: list[Any]) -> str:
    """`number > 0 or null`: bounds belong to the number."""
    text, limits = kind(annotation), bounds(metadata)
    nothing = " or `null`" if text.endswith(" or `null`") else ""
    return f"{text.removesuffix(nothing)} {limits}{nothing}" if limits else text


def shown(value: Any) -> str:
    """A default as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def condition(field: FieldInfo, prefix: str) -> str:
    """Beside which settings it has a use."""
    found = []
    for name, wanted in needs_of(field).wanted.items():
        key = name if "." in name else f"{prefix}{name}"
        if isinstance(wanted, Such):
            found.append(f"`{key}`" + (f" a {wanted.text}" if wanted.text else ""))
        elif wanted is not None:
            many = [one for one in (wanted if isinstance(wanted, tuple) else (wanted,)) if one]
            found.append(f"`{key}={'`, `'.join(map(str, many))}`")
    return f"Only with {' and '.join(found)}." if found else ""


def table(model: type[BaseModel], prefix: str) -> list[str]:
    """One row per setting of a section."""
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if sections(field.annotation) or (prefix == "method." and name == "name"):
            continue
        values = kind_of_values(field.annotation, field.metadata)
        meaning = " ".join([*(field.description or "").split(), *condition(field, prefix).split()])
        rows.append(f"| `{prefix}{name}` | `{shown(field.default)}` | {values} | {meaning} |")
    return rows if len(rows) > 2 else []


def described(model: type[BaseModel]) -> str:
    """The first paragraph of a section's docstring."""
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split())


def chapters(model: type[BaseModel], prefix: str = "", level: int = 3) -> list[str]:
    """Sections of settings, each with a heading, a sentence and a table."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        for chosen, inner in sections(field.annotation).items():
            key = f"{prefix}{name}"
            title = f"`{key}`" + (f" where `method.name={chosen}`" if chosen else "")
            sentence = f"{described(inner)} {condition(field, prefix)}".strip()
            lines += ["", f"{'#' * level} {title}", "", sentence]
            if rows := table(inner, f"{key}."):
                lines += ["", *rows]
            lines += chapters(inner, f"{key}.", level + 1)
    return lines


def settings(model: type[BaseModel], prefix: str = "method.") -> list[str]:
    """All settings of a section and those in it, in tables one below the other."""
    lines = ["", *rows] if (rows := table(model, prefix)) else []
    for name, field in model.model_fields.items():
        for inner in sections(field.annotation).values():
            lines += [
                "",
                f"`{prefix}{name}`: {described(inner)} {condition(field, prefix)}".strip(),
            ]
            lines += settings(inner, f"{prefix}{name}.")
    return lines


def method_pages() -> dict[Path, str]:
    """The page of every method, with its settings between the marks."""
    found = {}
    for name, model in sections(RunConfig.model_fields["method"].annotation).items():
        page = METHODS / f"{name}.md"
        if page.exists():
            before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
            lines = settings(model) or ["", "It has none of its own."]
            found[page] = (
                "\n".join([before + BEGIN.rstrip(), *lines, "", END]) + rest.partition(END)[2]
            )
    return found


def recipe_table(names: list[str]) -> list[str]:
    """What some fine-tuning recipes set."""
    keys = dict.fromkeys(key for name in names for key in FINETUNE_RECIPES[name])
    head = " | ".join(f"`{name}`" for name in names)
    rows = [f"| key | {head} |", "|---" * (len(names) + 1) + "|"]
    for key in keys:
        set_by = [FINETUNE_RECIPES[name] for name in names]
        cells = " | ".join(shown(recipe[key]) if key in recipe else "–" for recipe in set_by)
        rows.append(f"| `finetune.{key}` | {cells} |")
    return rows


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "## `vistill pretrain`", "", *table(RunConfig, "")]
    lines += chapters(RunConfig)
    lines += ["", "## `vistill evaluate`", "", EVALUATE, *table(EvaluateConfig, "")]
    lines += chapters(EvaluateConfig)
    pictures = [name for name in FINETUNE_RECIPES if name not in {"small", *CLIP_RECIPES}]
    lines += ["", "### What `finetune.recipe` sets", "", RECIPES, *recipe_table(pictures)]
    lines += ["", "For clips:", "", *recipe_table(list(CLIP_RECIPES))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    for file, text in {PAGE: page(), **method_pages()}.items():
        file.write_text(text, encoding="utf-8")
