"""The site made of these pages: `sphinx-build -W --keep-going docs docs/_build`.

The pages are plain Markdown that a code host shows as well; what is Sphinx's alone stands here.
"""

import os
import re
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import vistill

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SPEED = ROOT / "benchmarks" / "results"

project = "vistill"
version = release = vistill.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = f"vistill {version}"
html_static_path = ["_static"]
html_css_files = ["vistill.css"]
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "footer_start": [],
    "footer_end": [],
    "show_prev_next": False,
    "navigation_with_keys": False,
    "show_toc_level": 2,
}
html_sidebars = {"index": []}

myst_heading_anchors = 6
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

default_role = "code"  # single backticks in docstrings
napoleon_attr_annotations = False  # shapes such as "b 3 *size" are no markup
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88


def as_on_the_site(app: Any, page: str, source: list[str]) -> None:
    """Begin the first page with the README, and lead links to where things are on the site.

    Links of pages are those of the repository. On the site the README is the first page, what was
    measured of speed lies in `benchmarks` (a symbolic link), and a folder is no page.
    """
    folder = (DOCS / page).parent
    base = ROOT if page == "index" else folder.resolve()  # docs/benchmarks is a link
    if page == "index":
        source[0] = (ROOT / "README.md").read_text(encoding="utf-8") + source[0].partition("\n")[2]

    def led(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = Path(os.path.normpath(base / target))
        if "://" in target or not path.exists():
            return match[0]
        if path.is_dir():
            return text
        if path.is_relative_to(SPEED):
            path = DOCS / "benchmarks" / path.name
        elif path == ROOT / "README.md":
            path = DOCS / "index.md"
        if path.suffix == ".md" and "benchmarks" in (path.parent.name, folder.name):
            name = path.relative_to(DOCS).with_suffix("")  # MyST would look behind the link
            return f"{{doc}}`{text.replace('`', '')} </{name}>`"
        return f"[{text}]({os.path.relpath(path, folder)}{anchor or ''})"

    source[0] = re.sub(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)", led, source[0])


def inline_math(self: Any, node: Any) -> None:
    """A formula as MathML, which browsers draw without a script from elsewhere."""
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def block_math(self: Any, node: Any) -> None:
    """A formula on a line of its own."""
    self.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    """What the settings above cannot say."""
    app.connect("source-read", as_on_the_site)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
