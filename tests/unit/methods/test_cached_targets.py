"""Every method whose teacher can be cached, by target, medium and precision: a warm epoch has the
loss of the live teacher of the same views, and the view alone says what the teacher said."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from building import build

from vistill.batch import Batch
from vistill.data.cache import TeacherCache
from vistill.data.records import record_of
from vistill.methods.shared_view import SharedView
from vistill.models.vit import VisionTransformer

SAMPLES = 3
STATELESS = {"queue_size": 0, "global_temperature": 0.5, "local_temperature": 0.5}
KINDS = [("output", False), ("block", False), ("attention", False), ("attention", True),
         ("ffn", False), ("ffn", True), ("qkv", False)]  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    options: dict[str, Any]
    clips: bool = False

    def vit(self, width: int, seed: int, **more: Any) -> VisionTransformer:
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "depth": 2, "num_heads": 2}
        sizes["class_token"] = not self.clips
        if self.clips:
            sizes |= {"num_frames": 4, "tubelet_size": 2}
        return VisionTransformer(embed_dim=width, **sizes, **more)

    def method(self) -> SharedView:
        torch.manual_seed(2)
        teacher = replace(self, clips=self.clips and self.name != "umt").vit(24, 1, num_classes=7)
        return build(self.name, self.vit(16, 0), teacher, **self.options).train()

    def batch(self, epoch: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        size = (SAMPLES, 3, *((4,) if self.clips else ()), 32, 32)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        ids = torch.arange(SAMPLES)
        return Batch(pixels, seeds=ids + 1000 * epoch, ids=ids)


def tinymim(**options: Any) -> Case:
    return Case("tinymim", options)


CASES = [
    Case("feature_distillation", {}),
    Case("feature_distillation", {"target": "class_token"}),
    Case("kdep", {"align": "interpolate"}),
    *(Case("logit_kd", {"labels_weight": 0.0}, clips) for clips in (False, True)),
    *(Case("relation_kd", STATELESS, clips) for clips in (False, True)),
    Case("relation_kd", STATELESS | {"local_weight": 0.0}),
    *(tinymim(target="feature", feature={"kind": k, "residual": r}) for k, r in KINDS),
    *(tinymim(target="class_token", class_token={"loss": loss}) for loss in ("kl", "mse")),
    *(
        tinymim(relation={"pairs": pairs, "softmax": softmax})
        for pairs in (("qk", "vv"), ("vv",), ("qq", "kk"))
        for softmax in (True, False)
    ),
    tinymim(input="masked", mask_ratio=0.5),
    tinymim(target="feature", input="masked", mask_ratio=0.5, aux_mim={"weight": 1.0}),
    *(Case("amd", {"mask": m} if m else {}, clips=bool(m)) for m in ("tube", "random", None)),
    Case("amd", {"target_norm": "layer_norm", "generation": {"weight": 0}}, clips=True),
    Case("amd", {"direct": {"weight": 0}, "teacher_mask_ratio": 0.0}),
    *(
        Case("umt", {"aligned_layers": 2, "mask": mask} | more, clips)
        for mask, more in {
            "semantic": {"masks": 2},
            "attention": {"norm": "none", "loss": "mse"},
            "tube": {"visible_only": True},
            "random": {"pixels": "own"},
            "none": {},
        }.items()
        for clips in (True, False)
    ),
]


def named(case: Case) -> str:
    words = [case.name, *(f"{key}={value}" for key, value in case.options.items())]
    return " ".join([*words, "clips" if case.clips else "pictures"])


class Cached:
    """A cache of what a case's teacher says."""

    def __init__(self, case: Case, folder: Path, precision: Any) -> None:
        self.case, self.method = case, case.method()
        with torch.no_grad():
            said = self.method.teacher_features(case.batch(0))
        self.cache = TeacherCache(folder, record_of(said, precision), 1, SAMPLES)
        self.cache.open_to_write({})

    def batch(self, epoch: int) -> Batch:
        batch, cache = self.case.batch(epoch), self.cache
        ids = batch.ids.numpy()
        seeds = torch.from_numpy(cache.seeds(0, ids))
        return replace(batch, cached=cache.for_batch(0, batch.ids, seeds, cache.read(0, ids)))

    def live(self, epoch: int) -> torch.Tensor:
        """The loss of a teacher that is asked, and whose words nobody rounds."""
        features = self.method.features
        self.method.features = self.method.live_features  # type: ignore[method-assign]
        try:
            return self.method(self.batch(epoch)).total
        finally:
            self.method.features = features  # type: ignore[method-assign]


def refused(*_: Any) -> Any:
    raise AssertionError("the teacher was asked")


@pytest.mark.parametrize(
    ("precision", "allowed"),
    [
        ("int8", 0.01),
        *(
            pytest.param(precision, allowed, marks=pytest.mark.slow)
            for precision, allowed in {None: 0.01, "fp32": 1e-6, "bf16": 0.01, "int4": 0.15}.items()
        ),
    ],
)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_warm_epoch_has_the_loss_of_a_live_one(
    case: Case, precision: Any, allowed: float, tmp_path: Path
) -> None:
    try:
        cached = Cached(case, tmp_path / "c", precision)
    except ValueError:
        assert precision in ("int8", "int4")  # of one vector
        assert case.method().teacher_features(case.batch(0)).dim() == 2
        return
    method = cached.method
    live = [cached.live(epoch).item() for epoch in (0, 1)]
    cold = method(cached.batch(0)).total
    cached.cache.close()
    method.teacher_features = refused  # type: ignore[method-assign]
    warm = [method(cached.batch(epoch)).total for epoch in (0, 1)]
    assert torch.equal(cold, warm[0])
    assert [loss.item() for loss in warm] == pytest.approx(live, rel=allowed)
    warm[1].backward()
    assert any(p.grad is not None and p.grad.any() for p in method.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=named)
def test_what_a_teacher_says_hangs_on_the_view_alone(case: Case, tmp_path: Path) -> None:
    """A warm epoch has seeds of its own, and the mask of the view that was cached."""
    cached = Cached(case, tmp_path / "c", "fp32")
    method: Any = cached.method
    said: Callable[[int], torch.Tensor] = lambda epoch: method.teacher_features(  # noqa: E731
        cached.batch(epoch)
    )
    with torch.no_grad():
        assert method.disagreement(said(0), said(7)).tolist() == [0.0] * SAMPLES
    key = method.cache_key()
    assert key == case.method().cache_key()
    assert "signal" in key
