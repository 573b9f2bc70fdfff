"""Every kind of picture comes out by the rule that docs/data.md states for it."""

import pytest
from picture_kinds import kinds

CASES = kinds.cases()


@pytest.mark.parametrize("case", CASES, ids=[f"{c.kind}, {c.tried}, {c.rule}" for c in CASES])
def test_a_picture_comes_out_as_its_rule_says(case) -> None:
    assert case.problem() is None


def test_the_page_has_the_table() -> None:
    assert kinds.page(CASES) == kinds.PAGE.read_text(encoding="utf-8")
