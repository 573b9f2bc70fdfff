"""What each stage of a chain is: its teacher, the block that is read, and the released heads."""

from typing import Any

import pytest

from vistill.config.chain import stage_config, stage_names
from vistill.config.loading import load_config

CHAIN = ["vit_base", "vit_small", "vit_tiny"]


def stages(method: str = "tinymim", **words: Any) -> list[Any]:
    settings = {"chain": CHAIN, "teacher.model": "file:mae.pth", "teacher.weights": None}
    settings |= {"teacher.block": 7} if method == "tinymim" else {}
    config = load_config(method, (settings | words).items())
    assert stage_names(config) == ["1-vit_base", "2-vit_small", "3-vit_tiny"]
    teachers = [None, "run:out/1-vit_base", "run:out/2-vit_small"]
    return [stage_config(config, i, teacher) for i, teacher in enumerate(teachers)]


def test_heads_and_relations_of_the_released_students():
    """Spec 4.3: every stage's relations have as many heads as its student's last block had."""
    found = stages()
    assert [s.student.model for s in found] == CHAIN
    assert [s.student.num_heads for s in found] == [12, 6, 6]
    assert [s.method.relation.heads for s in found] == [16, 12, 12]
    assert [s.chain for s in found] == [None] * 3
    said = stages(**{"method.relation.heads": 3, "student.num_heads": 4})
    assert [(s.student.num_heads, s.method.relation.heads) for s in said] == [(4, 3)] * 3


def test_later_teachers_are_read_at_their_last_block():
    found = stages()
    assert [s.teacher.model for s in found] == [
        "file:mae.pth",
        "run:out/1-vit_base",
        "run:out/2-vit_small",
    ]
    assert [s.teacher.block for s in found] == [7, "last", "last"]


@pytest.mark.parametrize("method", ["feature_distillation", "kdep"])
def test_other_methods_read_no_block(method):
    assert [s.teacher.block for s in stages(method)] == [None] * 3
