"""The step that benchmarks compare with computes what vistill's step computes."""

from pathlib import Path

import pytest
import torch

from vistill.methods.tinymim import TinyMIM
from vistill.models.vit import VisionTransformer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("stop", [False, True])
def test_both_sides_give_the_same_loss_and_gradients(monkeypatch, stop):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tinymim_step
    from common import random_batch

    torch.manual_seed(0)
    student, teacher = (
        VisionTransformer(image_size=32, patch_size=8, embed_dim=width, depth=3, num_heads=heads)
        for width, heads in ((24, 3), (48, 6))
    )
    method = TinyMIM(student, teacher, teacher_block=2, student_drop_path=0.5).train()
    plain = tinymim_step.Plain(method, stop=stop)
    options = tinymim_step.parser("", batch=4, rounds=1).parse_args(["--image-size", "32"])
    found = tinymim_step.difference(method, plain, random_batch(options, 1))
    assert found["loss"] > 0.01

    with torch.no_grad():
        plain.teacher.blocks[0].attn.qkv.weight[:48] *= 2
    with pytest.raises(AssertionError, match="differ"):
        tinymim_step.difference(method, plain, random_batch(options, 1))
