"""Students that learn together: each as if alone, from a teacher that is asked once."""

from typing import Any

import pytest
import torch
from building import build
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.methods.multi_student import MultiStudent
from vistill.methods.shared_view import SharedView
from vistill.models.vit import VisionTransformer


def vit(width: int, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(image_size=16, patch_size=8, embed_dim=width, depth=1, num_heads=2)


def batch(size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(size), ids=torch.arange(size))


class Stub(SharedView):
    def __init__(self, width: int) -> None:
        super().__init__(vit(width), vit(16, seed=1))
        self.dropout = nn.Dropout(0.5)  # draws from the global generator, like foreign models

    def cache_key(self) -> dict[str, Any]:
        return {}

    def teacher_features(self, batch: Batch) -> Tensor:
        return batch.unit_pixels().flatten(1)

    def target_of(self, features: Tensor) -> Tensor:
        return features

    def compare(self, batch: Batch, target: Tensor) -> Losses:
        return Losses(self.dropout(target).square().mean(), {"term": target.mean()})


def test_what_one_student_draws_moves_no_other():
    stubs = {"a": Stub(8), "b": Stub(12)}
    both = MultiStudent(stubs)
    torch.manual_seed(3)
    found = both(batch())
    for name in stubs:
        torch.manual_seed(3)
        alone = stubs[name](batch())
        assert torch.equal(found.terms[name], alone.total)
        assert torch.equal(found.terms[f"{name}/term"], alone.terms["term"])
    torch.testing.assert_close(found.total, found.terms["a"] + found.terms["b"])


def test_the_teacher_runs_once_for_all():
    teacher = vit(16, seed=1)
    asked = []
    teacher.register_forward_hook(lambda *_: asked.append("forward"))
    tap = teacher.tap
    teacher.tap = lambda *a, **k: asked.append("tap") or tap(*a, **k)
    both = MultiStudent(
        {
            name: build("feature_distillation", vit(width), teacher)
            for name, width in (("a", 8), ("b", 12))
        }
    )
    both.train()
    asked.clear()
    losses = both(batch())
    assert asked == ["tap"]
    assert set(losses.terms) == {"a", "a/feature", "b", "b/feature"}
    losses.total.backward()
    assert all(p.grad is not None for p in both.methods["b"].projector.parameters())
    assert [s.width for s in both.exports.values()] == [8, 12]
    assert both.teacher is teacher
    assert not any("teacher" in name for name in both.state_dict())
    # Nothing is trained twice over, and modes reach every student's own method.
    parameters = list(both.parameters())
    assert len(parameters) == len(set(parameters))
    both.eval()
    assert not any(method.training for method in both.methods.values())


def test_every_student_has_a_map_of_its_own():
    teacher = vit(16, seed=1)
    both = MultiStudent(
        {
            name: build("kdep", vit(width), teacher, weight=1.0)
            for name, width in (("a", 8), ("b", 12))
        }
    )
    target_fit = both.target_fit(40)
    assert target_fit is not None
    target_fit.add(batch(40))
    text = both.use_fit(target_fit.result())
    assert "a: 40 pictures" in text
    assert "b: 40 pictures" in text
    assert [m.maps["feature"].basis.shape for m in both.methods.values()] == [(16, 8), (16, 12)]
    assert both(batch()).total > 0
    with pytest.raises(UserError, match="has 20 channels and the teacher's only"):
        MultiStudent({"a": build("kdep", vit(8), teacher), "b": build("kdep", vit(20), teacher)})


def test_students_read_one_teacher_in_one_way():
    teacher = vit(16, seed=1)
    with pytest.raises(UserError, match="teaches one student at a time"):
        MultiStudent({"a": build("mae", vit(8)), "b": build("mae", vit(12))})

    def tinymim(width: int, **options: Any) -> Any:
        return build("tinymim", vit(width), teacher, **options)

    both = MultiStudent({"a": tinymim(8), "b": tinymim(12)}).train()
    alone = both.methods["b"](batch())
    torch.testing.assert_close(both(batch()).terms["b"], alone.total)
    with pytest.raises(UserError, match=r"students a and b would read their teacher in different "):
        MultiStudent({"a": tinymim(8), "b": tinymim(12, target="feature")})
