"""A branch is computed for the samples that keep it, with the same result for all."""

import pytest
import torch

import vistill.models.layers as layers
from vistill.models.layers import Block

ALL = ("qkv", "cls_attention", "attention", "attention_residual", "ffn", "block")


def made(dtype=torch.float64):
    torch.manual_seed(0)
    block = Block(8, 2, 2.0, 0.1).to(dtype)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return block, torch.randn(5, 7, 8, dtype=dtype, requires_grad=True)


def factors(kept, dtype=torch.float64):
    return (torch.tensor(kept, dtype=dtype) / 0.7)[:, None, None]


@pytest.mark.parametrize("first", [(1, 0, 1, 1, 0), (0, 0, 0, 0, 0), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("second", [(0, 0, 0, 1, 0), (0, 0, 0, 0, 0), (0, 1, 1, 1, 1)])
@pytest.mark.parametrize("taps", [(), ("block",), ("attention_residual",), ("attention",), ALL])
@pytest.mark.parametrize("bias", [None, (2, 7, 7), (5, 2, 7, 7)])
@pytest.mark.parametrize("rows", [None, slice(3, None)])
def test_output_taps_and_gradients(monkeypatch, first, second, taps, bias, rows):
    if rows is not None and taps == ALL:
        taps = ("attention", "attention_residual", "ffn", "block")
    block, x = made()
    keep = factors(first), factors(second)
    bias = None if bias is None else torch.randn(bias, dtype=torch.float64)
    found, signals = block(x, taps, bias=bias, keep=keep, rows=rows)
    monkeypatch.setattr(layers, "samples_kept", lambda *_: None)
    wanted, all_signals = block(x, taps, bias=bias, keep=keep, rows=rows)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(signals, all_signals)
    leaves = [x, *block.parameters()]
    weights = torch.randn_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, weights), torch.autograd.grad(wanted, leaves, weights)
    )


def test_dropped_samples_are_left_out(monkeypatch):
    block, x = made()
    seen = []
    monkeypatch.setattr(block.mlp, "forward", lambda x, _: seen.append(len(x)) or x)
    block(x, keep=(factors((1, 1, 1, 1, 1)), factors((1, 0, 0, 1, 0))))
    block(x, keep=(factors((1, 1, 1, 1, 1)), factors((0, 0, 0, 0, 0))))
    assert seen == [2, 5]


def test_in_bf16_the_residual_stays_wide():
    block, x = made(torch.float32)
    keep = tuple(factors((1, 0, 1, 1, 0), torch.float32) for _ in range(2))
    wanted, _ = block(x, keep=keep)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = block(x, keep=keep)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
