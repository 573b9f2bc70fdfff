"""A method from a configuration: sizes of both sides, and seeds that no size moves."""

from typing import Any

import pytest
import torch

from vistill.config.loading import load_config
from vistill.errors import UserError
from vistill.runs.build import build

SMALL: dict[str, Any] = {
    "teacher.model": "timm/test_vit",
    "data.train": "pictures",
    "data.image_size": 32,
    "student.model": "vit",
    "student.patch_size": 16,
    "student.depth": 1,
    "student.num_heads": 2,
    "student.embed_dim": 16,
}


def made(**words: Any) -> Any:
    settings = SMALL | {name.replace("__", "."): value for name, value in words.items()}
    return build(load_config("feature_distillation", settings.items()), untrained=True)


def test_each_side_has_its_size():
    assert made().teacher.image_size == made().student.image_size == (32, 32)
    method = made(teacher__image_size=64, method__resize_map=True)
    assert (method.teacher.image_size, method.student.image_size) == ((64, 64), (32, 32))


def test_the_size_of_a_student_moves_neither_its_teacher_nor_its_aligner():
    one, deeper = made(), made(student__depth=2)
    assert not torch.equal(*(m.student.patch_embed.proj.weight for m in (one, made(seed=1))))
    for name, value in one.teacher.state_dict().items():
        assert torch.equal(value, deeper.teacher.state_dict()[name]), name
    assert torch.equal(one.projector.weight, deeper.projector.weight)


def test_an_untrained_teacher_has_to_be_asked_for():
    with pytest.raises(UserError, match=r"random"):
        build(load_config("feature_distillation", SMALL.items()))
