"""YAML is read by the scalar rules of YAML 1.2, and mistakes are told with their line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistill.config.yaml12 import dump_yaml, load_yaml, parse_scalar
from vistill.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1.5e-4", 1.5e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("012", 12),
        ("0o14", 12),
        ("0xC", 12),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("*.tar", "*.tar"),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)
    if not text.startswith("*"):
        assert load_yaml(f"key: {text}", "x.yaml") == {"key": value}


def test_special_floats() -> None:
    assert parse_scalar("-.inf") == -math.inf
    assert math.isnan(parse_scalar(".nan"))  # type: ignore[arg-type]


def test_quoted_words_stay_text() -> None:
    assert load_yaml("a: '12'\nb: \"null\"", "x.yaml") == {"a": "12", "b": "null"}


def test_a_key_said_twice_is_told_with_its_line() -> None:
    with pytest.raises(UserError, match=r"x\.yaml, line 3: 'lr' is set twice"):
        load_yaml("optim:\n  lr: 1\n  lr: 2\n", "x.yaml")


def test_broken_yaml_is_told_with_its_line() -> None:
    with pytest.raises(UserError, match=r"x\.yaml, line 2"):
        load_yaml("a: [1, 2\nb: 3: 4\n", "x.yaml")


def test_objects_are_not_built() -> None:
    with pytest.raises(UserError, match=r"x\.yaml, line 1"):
        load_yaml("!!python/object/apply:os.getcwd []", "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 1000 + "]" * 1000, "line 1: nested more than 40 levels deep"),
        ("".join(f"{' ' * i}a:\n" for i in range(60)), "line 40: nested more than 40 levels deep"),
        ("a: &x [1, *x]", "line 1: *x contains itself"),
        ("a: " + "9" * 5000, "line 1: a whole number of 5000 digits"),
        ("a: 1\n" * 300_000, "holds 1.5 million characters: no settings"),
        (
            "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
            "line 6: more than 100,000 values",
        ),
    ],
    ids=["deep", "deep by lines", "circle", "digits", "long", "aliases"],
)
def test_what_no_settings_are_is_told_before_memory_is_taken(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_yaml(text, "x.yaml")
    assert message in str(caught.value)


def test_aliases_of_a_sane_size_are_read() -> None:
    assert load_yaml("a: &x [1, 2]\nb: *x\nc: {d: *x}", "x") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": [1, 2]},
    }


@pytest.mark.parametrize(
    "word",
    ["1e3", "1E3", "1.", ".5", "no", "on", "012", "0o17", "0x1f", "null", "~", "", "true", ".inf",
     ".nan", "2026-11-27", "1_000", "12:30:45", "a: b", "- c", "# d", "é", "=", "<<", "NO"],
)  # fmt: skip
def test_what_is_written_is_read_again(word):
    content = {"text": word, "list": [word, 1e3, 1000, 3e-4, 1e22, None, True], word or "key": {}}
    found = load_yaml(dump_yaml(content), "it")
    assert found == content
    assert [type(x) for x in found["list"]] == [type(x) for x in content["list"]]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
)


@given(
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1e", min_size=1), inner)
        ),
        max_leaves=6,
    )
)
def test_any_settings_survive(content):
    assert load_yaml(dump_yaml(content), "it") == content
