"""Students that learn together: each as if alone, from a teacher that is asked once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.methods.base import Method, TrainedModule
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.kdep import KDEP
from vistill.methods.tinymim import TinyMIM
from vistill.methods.multi_student import Together
from vistill.models.vit import VisionTransformer


def vit(width: int, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(image_size=16, patch_size=8, embed_dim=width, depth=1, num_heads=2)


def batch(size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(size), ids=torch.arange(size))


class Trained(TrainedModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.student = vit(width)
        self.dropout = nn.Dropout(0.5)  # draws from the global generator, like foreign models

    def forward(self, batch: Batch, targets: Any) -> Losses:
        return Losses(self.dropout(targets).square().mean(), {"term": targets.mean()})


class Stub(Method):
    def teacher_output(self, batch: Batch) -> Tensor:
        return batch.unit_pixels().flatten(1)

    def target_of(self, observed: Tensor) -> Tensor:
        return observed


def test_what_one_student_draws_moves_no_other():
    stubs = {"a": Stub(Trained(8)), "b": Stub(Trained(12))}
    both = Together(stubs)
    torch.manual_seed(3)
    found = both(batch())
    for name in stubs:
        torch.manual_seed(3)
        observed = stubs[name].observed(batch())
        alone = stubs[name].trained(batch(), stubs[name].target_of(observed))
        assert torch.equal(found.terms[name], alone.total)
        assert torch.equal(found.terms[f"{name}/term"], alone.terms["term"])
    torch.testing.assert_close(found.total, found.terms["a"] + found.terms["b"])


def test_the_teacher_runs_once_for_all():
    teacher = vit(16, seed=1)
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append("forward"))
    tap = teacher.tap
    teacher.tap = lambda *a, **k: asked.append("tap") or tap(*a, **k)
    both = Together(
        {name: FeatureDistillation(vit(width), teacher) for name, width in (("a", 8), ("b", 12))}
    )
    both.train()
    asked.clear()
    losses = both(batch())
    assert asked == ["tap"]
    assert set(losses.terms) == {"a", "a/feature", "b", "b/feature"}
    losses.total.backward()
    assert all(p.grad is not None for p in both.trained.part["b"].projector.parameters())
    assert [s.width for s in both.students.values()] == [8, 12]
    assert both.teacher is teacher
    assert not any("teacher" in name for name in both.state_dict())
    # Nothing is trained twice over, and modes reach every student's own method.
    parameters = list(both.parameters())
    assert len(parameters) == len(set(parameters))
    both.eval()
    assert not any(method.training for method in both.methods.values())
    assert not both.methods["b"].trained.training


def test_every_student_has_a_map_of_its_own():
    teacher = vit(16, seed=1)
    both = Together(
        {name: KDEP(vit(width), teacher, weight=1.0) for name, width in (("a", 8), ("b", 12))}
    )
    fitting = both.fitting(40)
    assert fitting is not None
    fitting.add(batch(40))
    text = both.install(fitting.result())
    assert "a: 40 pictures" in text
    assert "b: 40 pictures" in text
    assert [m.map.basis.shape for m in both.methods.values()] == [(16, 8), (16, 12)]
    assert both(batch()).total > 0
    with pytest.raises(UserError, match="has 20 channels and the teacher's only"):
        Together({"a": KDEP(vit(8), teacher), "b": KDEP(vit(20), teacher)})


def test_methods_whose_teacher_sees_views_of_its_own():
    teacher = vit(16, seed=1)
    with pytest.raises(UserError, match="teaches one student at a time"):
        Together({"a": TinyMIM(vit(8), teacher), "b": TinyMIM(vit(12), teacher)})
