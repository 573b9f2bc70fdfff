"""A block that is asked for some tokens alone gives what the whole one gives for them."""

import pytest
import torch

from vistill.heads.generator import FeatureGenerator
from vistill.heads.hidden_decoder import HiddenDecoder, beside_mask_tokens
from vistill.heads.pixel_decoder import PixelDecoder
from vistill.models.layers import Block, BlockParts

PARTS = BlockParts(2.0, 0.1, "no_key", 0.3)


def trained(module):
    """With no parameter left at zero or one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.1 * noise
    return module


def assert_same(found, wanted, leaves):
    torch.testing.assert_close(found, wanted)
    weights = torch.linspace(-9, 9, wanted.numel(), dtype=wanted.dtype).view_as(wanted).sin()
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, weights, retain_graph=True),
        torch.autograd.grad(wanted, leaves, weights, retain_graph=True),
    )


@pytest.mark.parametrize("rows", [slice(0, 1), slice(2, 6), slice(3, None), slice(0, 7)])
@pytest.mark.parametrize("qkv_bias", ["all", "no_key", "none"])
@pytest.mark.parametrize("bias", [None, (2, 7, 7), (3, 2, 7, 7)])
def test_output_taps_and_gradients(rows, qkv_bias, bias):
    torch.manual_seed(0)
    block = trained(Block(8, 2, 2.0, 0.1, qkv_bias=qkv_bias)).double()
    x = torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    bias = None if bias is None else torch.randn(bias, dtype=torch.float64)
    keep = torch.rand(2, 3, 1, 1, dtype=torch.float64).unbind(0)
    taps = ("attention", "attention_residual", "ffn", "block")
    _, whole = block(x, taps, bias=bias, keep=keep)
    few, found = block(x, taps, bias=bias, keep=keep, rows=rows)
    assert few is found["block"]
    leaves = [x, *block.parameters()]
    for tap in ("attention", "block"):
        used = leaves if tap == "block" else [x, block.norm1.weight, block.attn.proj.weight]
        assert_same(found[tap], whole[tap][:, rows], used)
    for tap in taps:
        torch.testing.assert_close(found[tap], whole[tap][:, rows])


def through_all(decoder, projected, prefix, visible, missing):
    """What the blocks give for the missing tokens where each evaluates every token."""
    x = beside_mask_tokens(
        projected, decoder.mask_token, decoder.pos_embed, prefix, visible, missing
    )
    for block in decoder.blocks:
        x, _ = block(x)
    return x[:, -missing.shape[1] :]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("depth", [1, 2])
def test_generators_and_decoders(prefix, depth):
    torch.manual_seed(0)
    order = torch.rand(3, 9).argsort(dim=1)
    visible, missing = order[:, :3], order[:, 3:]
    table = torch.randn(1, prefix + 9, 16)
    tokens = torch.randn(3, prefix + 3, 16, dtype=torch.float64, requires_grad=True)
    shared = {"num_prefix": prefix, "parts": PARTS, "positions": table}

    generator = trained(FeatureGenerator(depth, 2, final_norm=True, **shared)).double()
    wanted = generator.norm(through_all(generator, tokens, prefix, visible, missing))
    assert_same(generator(tokens, visible, missing), wanted, [tokens, *generator.parameters()])

    painters = [trained(HiddenDecoder(16, depth, 2, out_dim=5, embed_bias=False, **shared))]
    if prefix:
        painters.append(trained(PixelDecoder(16, 16, depth, 2, (3, 3), 5, PARTS)))
    for painter in painters:
        painter.double()
        leaves = [tokens, *(p for p in painter.parameters() if p.requires_grad)]
        inner = through_all(painter, painter.embed(tokens), prefix, visible, missing)
        wanted = painter.pred(painter.norm(inner))
        assert_same(painter(tokens, visible, missing), wanted, leaves)
