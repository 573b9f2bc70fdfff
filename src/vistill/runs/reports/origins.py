"""Where models and data come from and under which terms, as far as files and libraries tell."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistill.errors import UserError
from vistill.files import local_path

UNTOLD = "nothing tells: ask where it was taken from"
_TEXTS = re.compile(r"(licen[cs]e|copying|notice|readme|origin|attribution|citation)", re.I)
_TERMS = re.compile(r"^(licen[cs]e|copying|notice)", re.I)
_TELLS = re.compile(r"licen[cs]|©|copyright|origin|source|https?://|CC[- ]BY|public domain", re.I)
_PARTS = {"train", "val", "test", "valid", "validation", "training", "images", "pictures", "videos"}
_LINES, _CHARACTERS = 5, 600


def origin_of_model(reference: str) -> str:
    """What is known of a model's weights beyond its name, line by line."""
    if Path(reference).exists():
        reference = f"{'run' if Path(reference).is_dir() else 'file'}:{reference}"
    kind, _, rest = reference.partition(":")
    place = rest.partition(",")[0]
    if kind == "run":
        return _told(_of_run(Path(place)))
    if kind == "file":
        return _told(_beside(Path(place).absolute().parent))
    library, _, name = kind.partition("/")
    if rest and Path(place).is_file():
        return _told(_beside(Path(place).absolute().parent))
    if library == "hf" and Path(name).is_dir():
        return _told(_beside(Path(name)))
    finders = {"timm": _of_timm, "torchvision": _of_torchvision}
    return _told(finders[library](name, rest)) if library in finders else UNTOLD


def origin_of_data(data: str) -> str:
    """What the files beside pictures or clips say of them."""
    try:
        path = local_path(data).absolute()
    except UserError:
        return UNTOLD
    folders = [path] if path.is_dir() else [path.parent]
    if path.is_dir() and path.name.lower() in _PARTS:
        folders.append(path.parent)
    found = next((told for folder in folders if (told := [*_beside(folder)])), [])
    return _told(iter(found))


def _told(lines: Iterator[str]) -> str:
    return "\n".join(lines) or UNTOLD


def _of_run(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("export/**/model.json"))[:1] or [folder / "model.json"]:
        if file.is_file():
            told = json.loads(file.read_text(encoding="utf-8"))
            yield str(told.get("origin", ""))
            if teacher := told.get("teacher"):
                yield f"taught by {teacher}"


def _of_timm(name: str, tag: str) -> Iterator[str]:
    import timm

    full = f"{name}.{tag}" if tag and tag != "pretrained" else name
    try:
        told: Any = timm.get_pretrained_cfg(full, allow_unregistered=False)
    except (RuntimeError, ValueError):
        return
    if told is None:
        return
    if told.license:
        yield f"licence {told.license}"
    for what in (told.hf_hub_id and f"https://huggingface.co/{told.hf_hub_id}", told.origin_url):
        if what:
            yield f"{what}"
    papers = told.paper_ids if isinstance(told.paper_ids, str) else ", ".join(told.paper_ids or ())
    if papers:
        yield papers


def _of_torchvision(name: str, tag: str) -> Iterator[str]:
    if "torchvision" not in sys.modules:  # takes seconds, and tells a licence of a few only
        return
    from torchvision import models

    try:
        weights = models.get_model_weights(name)
    except ValueError:
        return
    one = weights.DEFAULT if tag in ("", "pretrained") else weights[tag]
    for key in ("license", "recipe"):
        if told := one.meta.get(key):
            yield f"{'licence' if key == 'license' else 'made by'} {told}"
    yield one.url


def _beside(folder: Path) -> Iterator[str]:
    """The first lines of a licence in a folder, and those of a readme that tell an origin."""
    try:
        files = sorted(path for path in folder.iterdir() if _TEXTS.match(path.name))
    except OSError:
        return
    for file in files[:3]:
        if not file.is_file():
            continue
        with file.open(encoding="utf-8", errors="replace") as stream:
            lines = [" ".join(line.split()) for line in stream.read(20_000).splitlines()]
        whole = bool(_TERMS.match(file.name))
        told = [line for line in lines if line and (whole or _TELLS.search(line))]
        text = " ".join(told[:_LINES])[:_CHARACTERS]
        if text:
            yield f"{file.name}: {text}"
