"""The page on models says which taps every family offers; here it is held against the models."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import open_clip
import pytest
import timm
from transformers_families import SIZES, family

from vistill.errors import UserError
from vistill.models.backbone import POOLED, Backbone, TapKind
from vistill.models.build import load_backbone

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
CNN = {"map", "map_act", "pooled", "pooled_act"}
ALL = {*get_args(TapKind)} - CNN - {"logits"}


class Row(NamedTuple):
    """What the page says of one model."""

    name: str
    taps: set[str]
    logits: bool


def taps(words: str) -> set[str]:
    """`all`, `CNN`, `all but ...` or a list."""
    start, _, without = words.partition(" but ")
    kinds = {"all": ALL, "CNN": CNN}.get(start) or set(start.split(", "))
    assert kinds <= {*get_args(TapKind)}
    return kinds - set(without.split(", "))


def rows() -> Iterator[Row]:
    """One for every name that the table mentions, and for every family of transformers."""
    section = PAGE.read_text().partition("## What each family offers")[2].partition("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "family" or cells[0].startswith("---"):
            continue
        names = re.findall(r"`([^`]+)`", cells[0]) or re.findall(r"`([^`]+)`", cells[1])
        assert names, line
        assert cells[3] in ("yes", "no")
        yield from (Row(name, taps(cells[2]), cells[3] == "yes") for name in names)


def built(name: str, tmp_path: Path, *, keep: bool) -> Backbone:
    """The model with as few blocks as it can have and random weights."""
    option = ",classifier=keep" if keep else ""
    if "/" in name:
        return load_backbone(f"{name}{option}")
    try:
        family(name, tmp_path, classifier=keep)
    except KeyError:  # there is no such classifier: let vistill say so
        family(name, tmp_path)
    return load_backbone(f"hf/{tmp_path}{option}")


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block for transformers of timm and open_clip."""
    create, config = timm.create_model, open_clip.get_model_config

    def one_block(name: str, **options: Any) -> Any:
        try:
            return create(name, depth=1, **options)
        except TypeError:
            return create(name, **options)

    def one_layer(name: str) -> Any:
        model = config(name)
        if isinstance(model["vision_cfg"].get("layers"), int):
            model["vision_cfg"]["layers"] = 1
        return model

    monkeypatch.setattr(timm, "create_model", one_block)
    monkeypatch.setattr(open_clip, "get_model_config", one_layer)


ROWS = list(rows())


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_page_tells_the_taps(row: Row, tmp_path: Path) -> None:
    assert built(row.name, tmp_path / "plain", keep=False).taps == row.taps
    if row.logits:
        kept = built(row.name, tmp_path / "kept", keep=True).taps
        assert kept | (row.taps & POOLED) == row.taps | {"logits"}  # a classifier shows no feature
    else:
        with pytest.raises(UserError, match="classifier"):
            built(row.name, tmp_path / "kept", keep=True)


def test_every_family_with_names_of_its_own_has_a_row() -> None:
    assert {row.name for row in ROWS if "/" not in row.name} == set(SIZES)
