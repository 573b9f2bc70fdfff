"""What pages say outside of the commands that test_docs.py parses: other lines of shell blocks,
YAML, and the settings, options and commands that prose names."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from test_docs import NAMES, PAGES, ROOT, blocks, shell_lines

from vistill import cli
from vistill.config.compare import CompareConfig
from vistill.config.data import SourceConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.config.inspect import InspectConfig
from vistill.config.loading import load_config
from vistill.config.problems import sections
from vistill.config.rank_teachers import RankConfig
from vistill.config.samples import EmbedConfig
from vistill.config.schema import PupilConfig, RunConfig

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
UNCHECKED = {
    "pytest": "is what runs this",
    "sphinx-build -W --keep-going docs docs/_build": "is run by CI",
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)': (
        "SLURM runs it"
    ),
}
"""Lines of shell blocks that nothing here can check, with the reason."""
FILES = {"csv", "json", "jsonl", "md", "npz", "parquet", "py", "safetensors", "txt", "yaml"}
NAMED = {"students": PupilConfig, "sources": SourceConfig}
NO_SETTINGS = {
    "optim.learning_rate": "the misspelling in an example",
}
NOT_RUN = {"detectors.md": (2, "need a trained detector, which is large")}
"""Blocks of ```py are compiled and what they import is looked up; blocks of ```python run."""


def commands() -> dict[str, set[str]]:
    """Every command's options."""
    found: dict[str, set[str]] = {}
    group: Any = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {"": command}).values()
        words = [word for one in inner for option in one.params for word in option.opts]
        found[name] = {word for word in words if word.startswith("--")} | {"--help"}
    return found


COMMANDS = commands()


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting and section, with dots; names that users choose are `*`."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        for section in sections(field.annotation).values():
            yield from keys(section, f"{prefix}{name}.")
        if name in NAMED:
            yield f"{prefix}{name}.*"
            yield from keys(NAMED[name], f"{prefix}{name}.*.")


SCHEMAS = (RunConfig, EvaluateConfig, InspectConfig, RankConfig, EmbedConfig, CompareConfig)
KEYS = {key for schema in SCHEMAS for key in keys(schema)}
FIRST = {key.partition(".")[0] for key in KEYS if "." in key}


def known(key: str) -> bool:
    """Whether a setting exists; items of lists by their number, and parts of it as `section.*`."""
    key = re.sub(r"\.(\d+|\*)$", "", key)
    patterns = [key, re.sub(r"^(students|data\.sources)\.\w+", r"\1.*", key)]
    return any(pattern in KEYS for pattern in patterns) or key.startswith("method.options.")


def prose(page: Path) -> list[str]:
    """Inline code outside of fences."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_line_of_a_shell_block_is_checked(page: Path) -> None:
    for line, words in shell_lines(page):
        if any(word in ("vistill", "vistill.cli") for word in words) or line in UNCHECKED:
            continue
        if words[:2] == ["pip", "install"]:
            for extras in re.findall(r"\[([\w,]+)\]", words[-1]):
                assert set(extras.split(",")) <= set(EXTRAS), line
        else:
            assert words[0] == "python", f"{page.name}: nothing checks {line!r}"
            script = (ROOT / words[1]).read_text()
            for word in words[2:]:
                assert not word.startswith("--") or f'"{word}"' in script, line


def test_what_is_not_checked_is_still_there() -> None:
    lines = {line for page in PAGES for line, _ in shell_lines(page)}
    assert set(UNCHECKED) <= lines


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])
def test_yaml_is_a_configuration(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        file = tmp_path / "block.yaml"
        file.write_text(block)
        load_config(file, [])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_kind_that_is_known(page: Path) -> None:
    found = set(re.findall(r"^```([^\n]+)\n.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL))
    assert found <= {"sh", "python", "py", "yaml", "text", "bibtex", "{toctree}", "{eval-rst}"}


def test_python_that_does_not_run_is_counted_and_compiles() -> None:
    found = {}
    for page in PAGES:
        for block in blocks(page, "py"):
            found[page.name] = found.get(page.name, 0) + 1
            for node in ast.walk(ast.parse(block, page.name)):
                names = node.names if isinstance(node, ast.Import) else []
                modules = [name.name for name in names]
                if isinstance(node, ast.ImportFrom):
                    modules.append(node.module or "")
                for module in modules:
                    assert find_spec(module), f"{page.name} imports {module}"
                    if module.startswith("vistill") and isinstance(node, ast.ImportFrom):
                        imported = importlib.import_module(module)
                        assert all(hasattr(imported, name.name) for name in node.names)
    assert found == {name: count for name, (count, _) in NOT_RUN.items()}


def test_commands_of_measurements_exist() -> None:
    """`    python benchmarks/x.py --option` on the pages of what was measured."""
    common = (ROOT / "benchmarks" / "common.py").read_text()
    for page in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        for script, said in re.findall(r"^    python (\S+\.py)(.*)$", text, re.MULTILINE):
            source = (ROOT / script).read_text() + common
            for option in re.findall(r"--[a-z-]+", said):
                assert f'"{option}"' in source, f"{page.name}: {script} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_and_commands_in_prose_exist(page: Path) -> None:
    """Not in specifications, which name those of the published code."""
    if "specs" in page.parts:
        return
    wrong = []
    for code in prose(page):
        setting = re.match(r"([a-z][a-z_0-9]*(?:\.[a-z_*0-9]+)+)(=|$)", code)
        if setting:
            key = setting[1]
            is_file = key.rpartition(".")[2] in FILES and not setting[2]
            if key.partition(".")[0] in FIRST and not is_file and not known(key):
                wrong.append(code)
        words = code.split()
        if words[0] == "vistill" and len(words) > 1 and words[1].isascii():
            options = COMMANDS.get(words[1].rstrip(","), set())
            asked = {word.partition("=")[0] for word in words if word.startswith("--")}
            if not (words[1] in COMMANDS or words[1].startswith("-")) or asked - options:
                wrong.append(code)
    assert [code for code in wrong if code.partition("=")[0] not in NO_SETTINGS] == []
