"""Write docs/onnx_families.md: which students of timm are had as ONNX.

python scripts/write_onnx_page.py [NAME...]

With names only their rows are made anew. A student takes up to a minute.
"""

import json
import logging
import re
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import vistill

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "models"))

from timm_families import REFUSED, STUDENTS, build_smaller, student  # noqa: E402

PAGE = ROOT / "docs" / "onnx_families.md"
INTRODUCTION = """\
# ONNX

What `vistill export --format onnx` makes of a small student of every family that timm builds small,
at 64 x 64 pixels. Every file was compared with the model by onnxruntime before it was kept, at
batches of one and three and, with free sides, at three sizes. Written by
`python scripts/write_onnx_page.py`.

Libraries: {versions}.

| model | result |
|---|---|
"""
SIZE = 64


def result(name: str) -> str:
    """What becomes of one student."""
    try:
        backbone = student(name, SIZE)
        backbone.origin, backbone.untrained = name, False
        with tempfile.TemporaryDirectory() as folder:
            vistill.export(backbone, out=Path(folder) / "made", format="onnx")
            told = json.loads((Path(folder) / "made" / "onnx.json").read_text())
    except vistill.errors.UserError as error:
        return f"refused: {error}".replace("|", "/")
    free = isinstance(told["input"]["pixels"][-1], str)
    return "any batch and size" if free else "any batch, its own size"


def main() -> None:
    """Run the students that are asked for, keep the other rows."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    patch = pytest.MonkeyPatch()
    build_smaller(patch)
    rows = dict(re.findall(r"^\| `(.+?)` \| (.*?) ?\|$", PAGE.read_text(), re.MULTILINE))
    libraries = ("timm", "torch", "onnxscript", "onnxruntime")
    head = INTRODUCTION.format(versions=", ".join(f"{n} {version(n)}" for n in libraries))
    for name in sys.argv[1:] or sorted([*STUDENTS, *REFUSED]):
        rows[name] = result(name)
        lines = [f"| `{n}` | {rows.get(n, '')} |\n" for n in sorted([*STUDENTS, *REFUSED])]
        PAGE.write_text(head + "".join(lines))
        print(name, rows[name], flush=True)


if __name__ == "__main__":
    main()
