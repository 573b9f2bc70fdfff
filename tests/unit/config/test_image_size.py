"""`image_size`: an int is a square, a list height and width, in every section that has it."""

from typing import Any

import pytest
from pydantic import BaseModel

from vistill.config.evaluation import EvaluateConfig
from vistill.config.loading import build_config
from vistill.config.overrides import parse_overrides
from vistill.config.samples import EmbedConfig
from vistill.config.schema import RunConfig
from vistill.config.yaml12 import dump_yaml, load_yaml
from vistill.errors import UserError
from vistill.image_size import height_width, nearest_fitting

SETTINGS = [
    (RunConfig, "data.image_size", []),
    (RunConfig, "teacher.image_size", [("teacher", "x")]),
    (EvaluateConfig, "image_size", []),
    (EmbedConfig, "image_size", []),
]


def found(config: BaseModel, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("schema", "key", "beside"), SETTINGS)
def test_it_is_read_and_comes_back(schema: Any, key: str, beside: list[Any]) -> None:
    for text, expected in [("64", 64), ("[64,128]", (64, 128)), ("[96, 96]", 96)]:
        config = build_config(schema, {}, [*beside, *parse_overrides([f"{key}={text}"])])
        assert found(config, key) == expected
        again = load_yaml(dump_yaml(config.model_dump(mode="json")), "config.yaml")
        assert build_config(schema, again, []) == config


@pytest.mark.parametrize(("schema", "key", "beside"), SETTINGS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("64x128", "'64x128'; did you mean [64,128]?"),
        ("64,128", "'64,128'; did you mean [64,128]?"),
        ("big", "'big'"),
        ("0", "0"),
        ("20000", "20000"),
        ("[64,20000]", "[64,20000]"),
        ("[64,0]", "[64,0]"),
        ("[64]", "[64]"),
        ("[1,2,3]", "[1,2,3]"),
        ("{height: 64}", "{'height': 64}"),
    ],
)
def test_anything_else_is_one_sentence(
    schema: Any, key: str, beside: list[Any], text: str, shown: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_config(schema, {}, [*beside, *parse_overrides([f"{key}={text}"])])
    assert str(caught.value) == (
        f"{key} must be a side of 1 to 16384 pixels, or [HEIGHT,WIDTH], not {shown}"
    )


def test_the_first_number_is_the_height() -> None:
    assert height_width([64, 128]) == (64, 128)
    assert height_width(7) == (7, 7)


@pytest.mark.parametrize(
    ("size", "near"),
    [
        (100, "96 or 112"),
        (8, "16"),
        ((32, 60), "[32,64] or [32,48]"),
        ((7, 64), "[16,64]"),
        ((32, 64), "[32,64]"),
    ],
)
def test_the_nearest_sizes_that_fit(size: Any, near: str) -> None:
    assert nearest_fitting(size, 16) == near
