"""The README and the pages: commands parse, settings exist, examples run, links lead somewhere."""

import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vistill
from vistill import cli
from vistill.config.compare import compare_config, sorted_settings
from vistill.config.evaluation import EvaluateConfig
from vistill.config.inspect import InspectConfig
from vistill.config.loading import build_config, load_config
from vistill.config.rank_teachers import RankConfig
from vistill.config.samples import EmbedConfig, SamplesConfig
from vistill.models.build import create_backbone
from vistill.models.export import save_backbone
from vistill.runs.exporting import FORMATS

ROOT = Path(__file__).parents[2]
CELLS = ROOT / "tests" / "data" / "cells"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shell_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every line of a shell block, and its words; those of `bash -c '...'` one by one."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("$(which vistill)", "vistill"), comments=True)
            if "-c" in words:
                words = shlex.split(words[words.index("-c") + 1])
            if words:
                yield line, words


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `vistill ...`, also behind `torchrun`, and where output follows `$ `."""
    for _, words in shell_lines(page):
        for program in {"vistill", "vistill.cli"} & set(words):
            yield words[words.index(program) + 1 :]
    for block in blocks(page, "text"):
        for command in re.findall(r"^\$ vistill (.*)$", block.replace("\\\n", " "), re.MULTILINE):
            yield shlex.split(command)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples speak of: pictures, labelled ones, a teacher, an export."""
    (tmp_path / "pictures").symlink_to(CELLS / "train")
    (tmp_path / "labelled").symlink_to(CELLS)
    torch.manual_seed(0)
    model = create_backbone("vit_tiny", image_size=64, depth=1)
    model.untrained = False
    save_backbone(model, tmp_path / "runs" / "teacher")
    save_backbone(model, tmp_path / "small-vit")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands check their words and settings, and do nothing; names of those that would have."""
    ran: list[str] = []
    pretraining = importlib.import_module("vistill.api.pretrain")
    runs = importlib.import_module("vistill.runs.pretraining")

    def pretrain(*_: Any, **__: Any) -> None:
        ran.append("pretrain")

    def evaluate(backbone: str, *, overrides: Any, protocols: Any, labels: Any, **_: Any) -> str:
        settings = pretraining.read_overrides(overrides)
        settings += [("protocols", protocols), ("budgets", labels)]
        said = [(key, value) for key, value in settings if value is not None]
        build_config(EvaluateConfig, {"protocols": ["knn", "linear"]}, said)
        ran.append("evaluate")
        return ""

    def export(source: str, *, format: str, **_: Any) -> list[Path]:
        assert format in FORMATS
        ran.append("export")
        return []

    def compare(*methods: str, data: Any, out: Any, test: Any, overrides: Any, **said: Any) -> str:
        flags = {key: value for key, value in said.items() if value is not None}
        asked = compare_config({**flags, "methods": methods})
        settings = pretraining.read_overrides(overrides)
        of_runs, of_evaluations = sorted_settings(settings, asked.methods)
        for name, told in of_runs.items():
            load_config(name, told)
        build_config(EvaluateConfig, {"protocols": [asked.protocol]}, of_evaluations)
        ran.append("compare")
        return ""

    monkeypatch.setattr(runs, "prepare", lambda *_, **__: None)
    monkeypatch.setattr("vistill.runs.adapting.fit_to_place", lambda *_, **__: (None, None))
    monkeypatch.setattr(runs, "run_pretraining", pretrain)
    monkeypatch.setattr(runs, "rehearse", pretrain)
    monkeypatch.setattr("vistill.runs.chain.run_chain", pretrain)
    monkeypatch.setattr("vistill.api.evaluate", evaluate)
    monkeypatch.setattr("vistill.api.export", export)
    monkeypatch.setattr("vistill.api.compare", compare)
    readers = {"predict": SamplesConfig, "embed": EmbedConfig}
    readers |= {"index": EmbedConfig, "search": EmbedConfig, "inspect": InspectConfig}
    readers |= {"rank_teachers": RankConfig}
    for name, schema in readers.items():

        def infer(
            *_: Any, overrides: Any, name: str = name, schema: Any = schema, **__: Any
        ) -> str:
            build_config(schema, {}, pretraining.read_overrides(overrides))
            ran.append(name)
            return ""

        monkeypatch.setattr(f"vistill.api.{name}", infer)
    monkeypatch.setattr("vistill.api.prepare", lambda _, **__: ran.append("prepare"))
    monkeypatch.setattr("vistill.api.report", lambda *_, **__: ran.append("report"))
    monkeypatch.setattr("vistill.api.demo", lambda **_: ran.append("demo"), raising=False)
    return ran


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_understood(
    page: Path, workplace: Path, nothing_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(page):
        done = len(nothing_runs)
        mine = Path("mine.yaml")
        if words[:2] == ["recipes", "copy"]:
            mine.unlink(missing_ok=True)
        elif "mine.yaml" in words and not mine.exists():
            vistill.recipes.copy("tinymim_base", mine)
        code = cli.main(words)
        said = capsys.readouterr().err
        assert code == 0, f"vistill {shlex.join(words)}: {said}"
        assert words[0] == "recipes" or nothing_runs[done:] == [words[0].replace("-", "_")]


def test_the_readme_has_commands_of_every_kind() -> None:
    used = {words[0] for words in commands(ROOT / "README.md")}
    assert used == {
        *(
            "demo",
            "compare",
            "report",
            "pretrain",
            "prepare",
            "evaluate",
            "export",
            "predict",
            "embed",
            "inspect",
            "rank-teachers",
            "index",
            "search",
            "recipes",
        )
    }


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_examples_run(
    page: Path,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for pretrain in (vistill.pretrain, vistill.evaluate):
        monkeypatch.setattr(vistill, pretrain.__name__, _on_the_host(pretrain), raising=False)
    scope: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), scope)


def _on_the_host(function: Any) -> Any:
    """`function` without loader processes and GPU."""
    section = {"pretrain": ("data.", "train."), "evaluate": ("", "")}[function.__name__]

    def call(*positional: Any, overrides: Any = (), **named: Any) -> Any:
        quick = {f"{section[0]}workers": 0, f"{section[1]}device": "cpu"}
        return function(*positional, overrides=dict(overrides) | quick, **named)

    return call


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


def test_the_configuration_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_configuration_page.py"))
    for page, text in {script["PAGE"]: script["page"](), **script["method_pages"]()}.items():
        assert page.read_text(encoding="utf-8") == text, (
            f"{page.name}: run: python scripts/write_configuration_page.py"
        )


def test_every_setting_says_what_it_means() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert not re.findall(r"^.*\|  ?\|$", text, re.MULTILINE)


def test_docstrings_point_to_sections_that_exist() -> None:
    """`spec 4.3` is section 4.3 of docs/specs/tinymim.md, `spec NAME 3` one of another page."""
    found = 0
    for source in SOURCES:
        text = source.read_text()
        for name, number in re.findall(r"[(;,] ?specs?[ /]([a-z]+ )?(\d+(?:\.\d+)?)", text):
            page = ROOT / "docs" / "specs" / f"{name.strip() or 'tinymim'}.md"
            assert page.exists(), f"{source.name} names {page.name}"
            heading = rf"^#+ {re.escape(number)}[. ]"
            assert re.search(heading, page.read_text(), re.MULTILINE), (
                f"{source.name}: {page.name} has no section {number}"
            )
            found += 1
    assert found > 20
