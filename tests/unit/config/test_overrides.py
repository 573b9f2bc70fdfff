"""Dotted overrides reach sections, unions and list items."""

from typing import Any

import pytest

from vistill.config.overrides import apply_overrides, parse_overrides
from vistill.config.schema import RunConfig
from vistill.errors import UserError

DEFAULTS = RunConfig().model_dump()


def lay(raw: dict[str, Any], *words: str) -> dict[str, Any]:
    return apply_overrides(raw, parse_overrides(words), DEFAULTS)


def test_values_and_lists() -> None:
    assert lay({}, "optim.lr=1e-3", "method.relation.pairs=[qk,vv]", "data.train=a b.tar") == {
        "optim": {"lr": 1e-3},
        "method": {"relation": {"pairs": ["qk", "vv"]}},
        "data": {"train": "a b.tar"},
    }


def test_globs_and_urls_need_no_quotes() -> None:
    found = lay({}, "data.train=*.tar", "teacher.model=timm/vit_base_patch16_224:pretrained")
    assert found["data"]["train"] == "*.tar"
    assert found["teacher"]["model"] == "timm/vit_base_patch16_224:pretrained"


def test_the_recipe_is_kept_and_not_changed() -> None:
    raw = {"optim": {"lr": 1.0, "betas": [0.9, 0.95]}}
    assert lay(raw, "optim.betas.1=0.99") == {"optim": {"lr": 1.0, "betas": [0.9, 0.99]}}
    assert raw == {"optim": {"lr": 1.0, "betas": [0.9, 0.95]}}


def test_an_item_of_a_default_list() -> None:
    assert lay({}, "optim.betas.1=0.99") == {"optim": {"betas": [0.9, 0.99]}}


def test_a_new_method_replaces_the_section_and_takes_keys() -> None:
    raw = {"method": {"name": "tinymim", "relation": {"heads": 12}}}
    assert lay(raw, "method.mask_ratio=0.5", "method=mae") == {
        "method": {"name": "mae", "mask_ratio": 0.5}
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed"], "'seed' is not an override"),
        (["=3"], "is not an override"),
        (["optim..lr=3"], "is not an override"),
        (["seed=1", "seed=2"], "seed is set twice: 1 and 2"),
        (["optim.betas.3=1"], "optim.betas is a list of 2"),
        (["optim.betas=[1,"], "the value of optim.betas"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lay({}, *words)
