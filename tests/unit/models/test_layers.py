"""Attention gives the same in every precision, on the fused path and on the host's."""

import pytest
import torch

from vistill.models.layers import Attention, attend


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_in_bf16_on_a_host_is_attention(with_bias):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator).bfloat16().unbind(0)
    bias = torch.randn(4, 9, 9, generator=generator).bfloat16() if with_bias else None
    exact = attend(q.double(), k.double(), v.double(), None if bias is None else bias.double())
    found = attend(q, k, v, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, atol=2e-2, rtol=2e-2)
    swapped = attend(k, q, v, bias)
    assert (swapped.double() - exact).abs().max() > 0.1


def test_autocast_takes_the_same_way_forth_and_back():
    torch.manual_seed(0)
    layer = Attention(16, 2)
    x, norm = torch.randn(2, 5, 16), torch.nn.LayerNorm(16)
    layer.mix(*layer.heads(layer.project(x, norm)), None).sum().backward()
    wanted = layer.qkv.weight.grad.clone()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer.mix(*layer.heads(layer.project(x, norm)), torch.zeros(2, 5, 5))
    mixed.float().sum().backward()
    difference = (layer.qkv.weight.grad - wanted).norm() / wanted.norm()
    assert mixed.dtype == torch.bfloat16
    assert difference < 0.03
