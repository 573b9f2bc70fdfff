"""What the site is made of: tables of contents, generated pages, the parts of every method."""

import posixpath
import re
import runpy
from pathlib import Path

import pytest

import vistill
from vistill.config.loading import method_names, recipe_names
from vistill.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"
PARTS = [
    "Idea",
    "Equation",
    "Switches",
    "Recipes",
    "Cost",
    "What we measured",
    "When to use it, and when not",
]


def test_every_page_is_in_one_table_of_contents() -> None:
    """As Sphinx would say, without building anything."""
    listed = ["index"]
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.M | re.S):
            folder = page.parent.relative_to(DOCS).as_posix()
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed += [posixpath.normpath(posixpath.join(folder, entry)) for entry in entries]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted({*pages, "benchmarks/*"})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_of_the_same_parts(method: str) -> None:
    page = (DOCS / "methods" / f"{method}.md").read_text()
    found = re.split(r"^## (.*)\n", page, flags=re.MULTILINE)
    assert found[1::2][: len(PARTS)] == PARTS
    text = dict(zip(found[1::2], found[2::2], strict=True))
    assert all(body.strip() for body in text.values())
    assert f"]({method}.svg)" in text["Idea"]
    assert re.search(r"^\$\$.+\$\$$", text["Equation"], re.MULTILINE)
    picture = (DOCS / "methods" / f"{method}.svg").read_text()
    assert "<title>" in picture
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", picture), "it loads nothing"


def test_every_method_of_a_run_is_told() -> None:
    assert sorted(METHODS) == [name for name in method_names() if name != "custom"]


def test_every_recipe_stands_on_a_page_of_a_method() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "methods").glob("*.md"))

    def told(name: str) -> bool:
        family, _, rest = name.partition("_")
        if f"`{name}`" in pages or (f"`_{rest}`" in pages and f"`{family}_" in pages):
            return True
        listed = re.fullmatch(r"(umt_[a-z]+)_(\w+)_(?:base|large)", name)
        of_all = listed and rf"`{listed[1]}_{{[\w,]*\b{listed[2]}\b[\w,]*}}_{{base,large}}`"
        return bool(of_all and re.search(of_all, pages))

    assert [name for name in recipe_names() if not told(name)] == []


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS.parent / "scripts" / "write_cli_page.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), (
        "run: python scripts/write_cli_page.py"
    )


def test_every_public_name_is_on_the_page_of_python() -> None:
    page = (DOCS / "api.md").read_text()
    named = set(re.findall(r"autofunction:: vistill\.(?:api\.)?(\w+)", page))
    assert set(vistill.__all__) - {"__version__"} <= named
    classes = set(re.findall(r"autoclass:: vistill\.methods\.[\w.]+\.(\w+)", page))
    assert {method.__name__ for method in METHODS.values()} <= classes  # type: ignore[attr-defined]
