"""Write docs/model_families.md: what becomes of a small model of every family of every library.

python scripts/write_model_families.py
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "models"))

from model_families import (  # noqa: E402
    OPEN_CLIP,
    TORCHVISION,
    Outcome,
    kinds_of_transformers,
    modules_of_timm,
    outcome,
)

PAGE = ROOT / "docs" / "model_families.md"
CNN = {"map", "map_act", "pooled", "pooled_act"}
INTRODUCTION = """\
# Model families

What becomes of a small model with random weights of every family of pictures and clips that an
installed library builds: it is read with the taps that it was seen to have, or refused in one
sentence. Written by `python scripts/write_model_families.py`; what is asked of a model is told
[here](models.md#what-each-family-offers). *CNN* is map, map_act, pooled and pooled_act.

Libraries: {versions}.
"""
HEADER = """
## {title}

| family | model | prefix | taps, or why it is refused | what is pooled, if not as usual |
|---|---|---|---|---|
"""


def row(family: str, model: str, found: Outcome) -> str:
    """One line of a table."""
    backbone = found.backbone
    if backbone is None:
        reason = found.refusal.partition(" cannot be read: ")[2] or found.refusal
        reason = reason.removeprefix("hf/FOLDER, ").removeprefix("hf/FOLDER is ")
        return f"| {family} | {model} | | refused: {reason.replace('|', '/')} | |\n"
    taps = {*backbone.taps}
    told = ", ".join(["CNN"] * (taps >= CNN) + sorted(taps - CNN if taps >= CNN else taps))
    prefix = str(backbone.num_prefix_tokens) if backbone.depth else ""
    if backbone.num_prefix_tokens and not backbone.has_class_token:
        prefix += " registers"
    return f"| {family} | {model} | {prefix} | {told} | {backbone.reads} |\n"


def page() -> str:
    """The whole page."""
    names = ("transformers", "timm", "torchvision", "open-clip-torch", "torch")
    text = INTRODUCTION.format(versions=", ".join(f"{name} {version(name)}" for name in names))
    groups = {
        "transformers": [(kind, "", f"hf/{kind}") for kind in kinds_of_transformers()],
        "timm": [(m, name, f"timm/{name}") for m, name in modules_of_timm().items()],
        "torchvision": [("", name, f"torchvision/{name}") for name in TORCHVISION],
        "open_clip": [("", name, f"open_clip/{name}") for name in OPEN_CLIP],
    }
    for title, members in groups.items():
        text += HEADER.format(title=title)
        for family, model, spec in members:
            text += row(*(f"`{word}`" if word else "" for word in (family, model)), outcome(spec))
    return text


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)  # what libraries remark on random weights
    PAGE.write_text(page())
