"""Write docs/cli.md from the program: what every command takes, as `--help` tells it.

python scripts/write_cli_page.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from vistill import cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

What every command takes, as `--help` tells it; this page is written by
`python scripts/write_cli_page.py`. `KEY=VALUE` are settings of the
[configuration](configuration.md). Every command is a function of the same name [in Python](api.md).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the work stopped on a fault of the machine or of training, told in one sentence |
| 2 | something to mend, told in one sentence before any work |
| 129, 130, 143 | SIGHUP, Ctrl-C, SIGTERM: what is done is kept, and the same command continues |
"""
PAGES = {
    "compare": "compare.md",
    "evaluate": "evaluation.md",
    "export": "evaluation.md#a-model-for-use",
    "predict": "evaluation.md#a-model-for-use",
    "embed": "evaluation.md#a-model-for-use",
    "index": "search.md",
    "search": "search.md",
    "inspect": "inspect.md",
    "rank-teachers": "choosing_a_teacher.md",
    "prepare": "data.md#prepare-a-collection",
    "pretrain": "runs.md",
}
"""Where more is told of a command."""


def commands(group: Any, name: str = "vistill") -> Iterator[tuple[str, Any]]:
    """Every command with all its words, those of groups too."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def written(parameter: Any) -> str:
    """An argument or option as it is typed."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    value = "" if getattr(parameter, "is_flag", False) else f" {parameter.name.upper()}"
    return ", ".join(parameter.opts) + value


def row(parameter: Any) -> str:
    """One line of a command's table."""
    default = parameter.default
    plain = default is None or default is False or parameter.required
    needed = "required" if parameter.required else "" if plain else f"`{default}`"
    return f"| `{written(parameter)}` | {needed} | {' '.join((parameter.help or '').split())} |"


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for name, command in commands(typer.main.get_command(cli.app)):
        lines += [f"## `{name}`", "", " ".join((command.help or "").split()), ""]
        if target := PAGES.get(name.split()[1]):
            lines += [f"More: [{target.partition('#')[0]}]({target}).", ""]
        if command.params:
            lines += [
                "| word | default | meaning |",
                "|---|---|---|",
                *map(row, command.params),
                "",
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    PAGE.write_text(page(), encoding="utf-8")
