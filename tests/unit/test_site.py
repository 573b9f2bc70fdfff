"""What the site is made of: tables of contents, generated pages, the parts of every method."""

import posixpath
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


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
