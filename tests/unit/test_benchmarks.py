"""The step that benchmarks compare with computes what vistill's step computes."""

from pathlib import Path

import pytest
import torch

from vistill.methods.tinymim import TinyMIM
from vistill.models.sizes import ViTSize
from vistill.models.vit import VisionTransformer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_step_of_tinymim_agrees(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain_tinymim
    import tinymim_step

    torch.manual_seed(0)
    student, teacher = (
        VisionTransformer(image_size=32, patch_size=8, embed_dim=width, depth=3, num_heads=heads)
        for width, heads in ((24, 3), (48, 6))
    )
    method = TinyMIM(student, teacher, block=2, drop_path=0.5).train()
    monkeypatch.setattr(tinymim_step, "tinymim", lambda _: method)
    options = tinymim_step.parser("", batch=4, rounds=1).parse_args(["--image-size", "32"])
    assert tinymim_step.agree(options)["loss"] > 0.01
    monkeypatch.setattr(plain_tinymim, "drop_path_factors", lambda *_: None)
    monkeypatch.setattr(tinymim_step, "drop_path_factors", lambda *_: None)
    method.zero_grad()
    with pytest.raises(AssertionError, match="differ"):
        tinymim_step.agree(options)


@pytest.mark.slow
@pytest.mark.parametrize("student", ["resnet18", "mobilenet_v2"])
def test_a_step_of_kdep_agrees(monkeypatch, student):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kdep_step
    import plain_kdep

    options = kdep_step.parser("", batch=4, rounds=1).parse_args(["--image-size", "32"])
    options.student, options.teacher = student, "resnet50"
    assert kdep_step.agree(options)["loss"] > 0.01
    monkeypatch.setattr(plain_kdep, "last_block", lambda block, x: block(x))
    with pytest.raises(AssertionError, match="differ"):
        kdep_step.agree(options)


def test_a_step_of_feature_distillation_agrees(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fd_step
    import plain_fd

    tiny = {"vit_small": ViTSize(24, 2, 3), "vit_base": ViTSize(64, 2, 1)}
    monkeypatch.setattr(fd_step, "VIT_SIZES", tiny)
    options = fd_step.parser("", batch=4, rounds=1).parse_args(["--image-size", "32"])
    assert fd_step.agree(options)["loss"] > 0.01
    monkeypatch.setattr(plain_fd.QuickGELU, "forward", lambda _, x: x)
    with pytest.raises(AssertionError, match="differ"):
        fd_step.agree(options)


def test_a_step_of_amd_agrees(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import amd_step
    import plain_amd

    def tiny(name, image_size, num_frames):
        return VisionTransformer(
            image_size=image_size, patch_size=8, embed_dim=24 if name == "vit_small" else 64,
            depth=2, num_heads=2, tubelet_size=2, num_frames=num_frames, class_token=False,
            qkv_bias="no_key",
        )  # fmt: skip

    monkeypatch.setattr(amd_step, "create_backbone", tiny)
    options = amd_step.parser("", batch=2, rounds=1).parse_args(["--image-size", "32"])
    options.frames = 4
    assert amd_step.agree(options)["loss"] > 0.01
    target = plain_amd.PlainAMD.target
    monkeypatch.setattr(plain_amd.PlainAMD, "target", lambda self, x: 1.1 * target(self, x))
    with pytest.raises(AssertionError, match="differ"):
        amd_step.agree(options)
