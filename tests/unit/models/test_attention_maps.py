"""Attention maps are what the kernel computes with, in every adapter."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_contract import MODELS

from vistill.models.attention_maps import hear_attention
from vistill.models.backbone import Tap
from vistill.models.fused_attention import AttentionCall


@pytest.mark.parametrize("mask", ["none", "added", "allowed", "row"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_call_is_rebuilt(mask: str, scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=generator)
    drawn = torch.randn(2, 1, 5, 5, generator=generator)
    bias = {"none": None, "added": drawn, "row": drawn[:, :, :1],
            "allowed": (drawn > 0) | torch.eye(5).bool()}[mask]  # fmt: skip
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    call = AttentionCall(q, k, v, bias, 0.5 if scale is None else scale)
    torch.testing.assert_close(call.probabilities() @ v, expected)
    torch.testing.assert_close(call.of_class_token(), call.probabilities()[:, :, 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_block_of_every_transformer_tells_its_map(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name](tmp_path).eval()
    clip = (model.num_frames,) if model.num_frames > 1 else ()
    images = torch.randn(2, 3, *clip, *model.image_size)
    told: dict[int, torch.Tensor] = {}
    if "block" not in model.taps:
        hear_attention(model, images, told.__setitem__)
        assert told == {}
        return
    taps = [Tap("block", number) for number in range(1, model.depth + 1)]
    found = hear_attention(model, images, told.__setitem__, taps)
    assert sorted(told) == list(range(1, model.depth + 1))
    for number, maps in told.items():
        heads = model.num_heads[number - 1]
        assert maps.shape[1] == heads or not heads
        assert maps.shape[2] == maps.shape[3]
        assert len(maps) % len(images) == 0
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]))
    expected = model.tap(images, taps)  # and listening changes nothing
    for tap in taps:
        torch.testing.assert_close(found[tap], expected[tap], atol=1e-5, rtol=1e-5)
    if "cls_attention" in model.taps:
        last = Tap("cls_attention", model.depth)
        rows = model.tap(images, [last])[last]
        torch.testing.assert_close(told[model.depth][:, :, 0], rows)
