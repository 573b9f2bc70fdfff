"""Settings mean the same in every order and in every way of writing them."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistill.config.evaluation import EvaluateConfig
from vistill.config.loading import build_config
from vistill.config.overrides import apply_overrides, canonical, parse_overrides
from vistill.config.schema import RunConfig
from vistill.errors import UserError

DEFAULTS = RunConfig().model_dump()


def lay(raw: dict[str, Any], *words: str) -> dict[str, Any]:
    said = canonical(RunConfig, parse_overrides(words))
    return apply_overrides(canonical(RunConfig, raw.items()), said, DEFAULTS)


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
    assert lay(raw, "optim.betas=[0.5,0.6]") == {"optim": {"lr": 1.0, "betas": [0.5, 0.6]}}
    assert raw == {"optim": {"lr": 1.0, "betas": [0.9, 0.95]}}


def test_a_mapping_sets_what_it_names() -> None:
    raw = {"optim": {"lr": 1.0, "betas": [0.9, 0.95]}}
    assert lay(raw, "optim={lr: 2.0}") == {"optim": {"lr": 2.0, "betas": [0.9, 0.95]}}


def test_an_item_of_a_default_list() -> None:
    assert lay({}, "optim.betas.1=0.99") == {"optim": {"betas": [0.9, 0.99]}}
    assert lay({}, "optim.betas.01=0.99") == {"optim": {"betas": [0.9, 0.99]}}


@pytest.mark.parametrize("whole", ["method=mae", "method={name: mae}"])
def test_a_new_method_replaces_the_section_and_takes_keys(whole: str) -> None:
    raw = {"method": {"name": "tinymim", "relation": {"heads": 12}}}
    for words in permutations(["method.mask_ratio=0.5", whole]):
        assert lay(raw, *words) == {"method": {"name": "mae", "mask_ratio": 0.5}}


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("student=vit_tiny", ("student", "model")),
        ("teacher=vit_tiny", ("teacher", "model")),
        ("cache=vit_tiny", ("cache", "path")),
        ("method=vit_tiny", ("method", "name")),
        ("students.a=vit_tiny", ("students", "a", "model")),
    ],
)
def test_one_word_for_a_section_is_its_natural_setting(word: str, setting: Any) -> None:
    key, _, value = word.partition("=")
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    for overrides in ([(key, value)], nested.items()):
        assert canonical(RunConfig, overrides).values == {setting: "vit_tiny"}


@pytest.mark.parametrize("order", permutations(["student=vit_tiny", "student.patch_size=8"]))
def test_a_model_and_its_patches_in_any_order(order: Any) -> None:
    config = build_config(RunConfig, {}, parse_overrides(order))
    assert (config.student.model, config.student.patch_size) == ("vit_tiny", 8)
    assert build_config(RunConfig, {"student": "vit_tiny"}, []).student.model == "vit_tiny"


def test_one_word_for_a_section_of_an_evaluation() -> None:
    for order in permutations(["finetune.epochs=7", "finetune=mae_large"]):
        config = build_config(EvaluateConfig, {}, parse_overrides(order))
        assert (config.finetune.recipe, config.finetune.epochs) == ("mae_large", 7)
    words = ["detection=ava_base", "protocols=[detection]"]
    config = build_config(EvaluateConfig, {}, parse_overrides(words))
    assert config.detection.base_lr == 2.5e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed"], "'seed' is not an override"),
        (["=3"], "is not an override"),
        (["optim..lr=3"], "is not an override"),
        (["seed=1", "seed=2"], "seed is set twice: 1 and 2"),
        (["train.compile=true", "train.compile=1"], "train.compile is set twice: True and 1"),
        (["student=a", "student.model=b"], "student.model is set twice: 'a' and 'b'"),
        (["student={model: a}", "student=b"], "student.model is set twice: 'a' and 'b'"),
        (["optim.betas.3=1"], "optim.betas is a list of 2"),
        (["optim.betas.²=1"], "optim.betas must be a list, not {'²': 1}"),
        (["optim.betas=[1,"], "the value of optim.betas"),
        (
            ["optim.betas=[0.9,0.95]", "optim.betas.1=0.99"],
            "optim.betas.1 is set twice: 0.95 (in optim.betas=[0.9,0.95]) and 0.99",
        ),
        (["optim.betas=[0.9,0.95]", "optim.betas.2=0.99"], "optim.betas is a list of 2"),
        (["optim.betas.1=0.9", "optim.betas.01=0.99"], "optim.betas.1 is set twice: 0.9 and 0.99"),
        (["train.epochs=3", "train.epochs.x=4"], "train.epochs=3 and train.epochs.x=4 exclude"),
        (["method.options={a: 1}", "method.options.a=2"], "method.options.a is set twice: 1 and 2"),
        (["students=null", "students.a=vit"], "students=null and students.a.model=vit exclude"),
        (["train=5", "train.epochs=3"], "not 5; did you mean train.epochs=5?"),
        (["optim=1e-3"], "optim must be a section of settings, not 0.001; did you mean optim.lr="),
        (["optim=sgd"], "did you mean optim.optimizer=sgd?"),
        (["data=64"], "did you mean data.image_size=64?"),
        (["student=5"], "student must be a section of settings, not 5"),
        (["method.relation=qk"], "method.relation must be a section of settings, not 'qk'"),
        (["method.decoder=4"], "did you mean method.decoder.depth=4?"),
        (["train=true"], "did you mean train.compile=true?"),
        (["train.epochs=true"], "train.epochs must be a number, not true"),
        (["seed=false"], "seed must be a number, not false"),
        (["data.crop_scale=true"], "data.crop_scale must be a number, not true"),
        (["seed=" + "9" * 5000], "the value of seed is a whole number of 5000 digits"),
        (["optim.lr=true"], "optim.lr must be a number, not true"),
        (["train="], "train must be a section of settings, not None; write train.epochs=VALUE"),
        (["train=[1,2]"], "train must be a section of settings, not"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    for order in (words, words[::-1]):
        with pytest.raises(UserError) as caught:
            build_config(RunConfig, {}, parse_overrides(order))
        assert message in str(caught.value) or order is not words


def test_what_is_said_twice_alike_is_said_once() -> None:
    words = ["optim.betas=[0.9,0.95]", "optim.betas.1=0.95", "student=vit_tiny", "seed=3", "seed=3"]
    assert lay({}, *words, "student.model=vit_tiny") == {
        "optim": {"betas": [0.9, 0.95]},
        "student": {"model": "vit_tiny"},
        "seed": 3,
    }


def test_recipes_may_be_written_with_dots_or_leave_a_section_empty() -> None:
    raw = {"train.epochs": 20, "optim": None, "student": "vit_tiny", "student.patch_size": 8}
    config = build_config(RunConfig, raw, [], "mine.yaml")
    assert (config.train.epochs, config.student.model) == (20, "vit_tiny")
    assert config.student.patch_size == 8
    with pytest.raises(UserError, match=r"not 5; did you mean train.epochs=5\? \(in mine.yaml\)"):
        build_config(RunConfig, {"train": 5, "train.epochs": 3}, [], "mine.yaml")


WORDS = [
    *("student=vit_tiny", "student=vit_base", "student.model=vit_tiny", "student.patch_size=8"),
    *("student={patch_size: 32}", "student.depth=2", "teacher=run:x", "teacher.block=3"),
    *("method=mae", "method=kdep", "method.name=mae", "method.mask_ratio=0.5", "method.n=2"),
    *("method={name: mae, decoder: {depth: 2}}", "method.decoder.depth=3", "cache=a", "cache=b"),
    *("optim.betas=[0.1,0.2]", "optim.betas.0=0.1", "optim.betas.1=0.3", "optim={lr: 1e-3}"),
    *("optim.lr=1e-3", "optim.lr=0.002", "train=5", "train.epochs=30", "train.epochs.x=3"),
    *("students=null", "students.a=vit", "students={b: {model: vit_tiny}}", "students.b.lr=0.1"),
    *("method.options={a: {b: 1}}", "method.options.a.b=2", "method.options.c=1", "chain=[a,b]"),
    *("chain.0=c", "train.compile=1", "train.compile=true", "seed=1", "seed=1.0", "seed=null"),
]
RECIPES: list[dict[str, Any]] = [
    {},
    {"method": {"name": "mae", "decoder": {"depth": 4}}, "student": "vit_small"},
    {"optim": {"betas": [0.5, 0.6]}, "students": {"a": {"model": "vit_base", "lr": 0.1}}},
]


def answer(raw: dict[str, Any], said: list[tuple[str, Any]]) -> Any:
    """The settings, or how they are refused without the order of values."""
    try:
        return build_config(RunConfig, raw, said, "x.yaml").model_dump()
    except UserError as error:
        return "has no use" if "has no use" in str(error) else "refused"


@given(st.sampled_from(RECIPES), st.lists(st.sampled_from(WORDS), max_size=6), st.data())
def test_the_order_of_words_changes_nothing(
    raw: dict[str, Any], words: list[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(words))
    assert answer(raw, parse_overrides(shuffled)) == answer(raw, parse_overrides(words))


@given(words=st.lists(st.sampled_from(WORDS), max_size=5))
def test_words_and_a_file_of_the_same_settings_agree(words: list[str]) -> None:
    pairs = dict(parse_overrides(words))  # of one key the last word: a file has it once
    by_file, by_words = answer(pairs, []), answer({}, list(pairs.items()))
    # Only of words is more demanded: a file may hold what has no use, such as every default.
    assert by_words == by_file or "has no use" in by_words
