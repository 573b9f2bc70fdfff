"""A linear layer that makes its input again gives the same, and keeps less."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vistill.models.layers import Block, quick_gelu
from vistill.models.remade import linear_behind, product_behind


def kept_bytes(function):
    """Bytes that autograd keeps while `function` runs, each storage once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(kept.values()), result


@pytest.mark.parametrize("made", [F.gelu, quick_gelu, "norm", "bare norm"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["nothing", "input", "weight", "norm"])
def test_the_same_output_and_gradients(made, bias, frozen):
    torch.manual_seed(0)
    if isinstance(made, str):
        made = nn.LayerNorm(6, elementwise_affine=made == "norm").double()
    linear = nn.Linear(6, 5, bias=bias).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=frozen != "input")
    linear.weight.requires_grad_(frozen != "weight")
    scales = list(made.parameters()) if isinstance(made, nn.Module) else []
    for scale in scales:
        scale.data += torch.randn_like(scale)
        scale.requires_grad_(frozen != "norm")
    leaves = [t for t in (x, *linear.parameters(), *scales) if t.requires_grad]
    wanted, found = linear(made(x)), linear_behind(made, linear, x)
    assert type(found.grad_fn) is not type(wanted.grad_fn)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, weights), torch.autograd.grad(wanted, leaves, weights)
    )


def test_of_a_block_ten_widths_of_a_token_are_kept():
    torch.manual_seed(0)
    block, x = Block(32, 2), torch.randn(4, 50, 32)
    x.requires_grad_()
    weights = sum(p.numel() for p in block.parameters() if p.dim() > 1)
    kept, _ = kept_bytes(lambda: block(x))
    widths = (kept / 4 - weights) / x.numel()
    assert 10 <= widths < 10.3  # a norm's and the softmax's sums beside them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_multiplies_what_it_did(dtype):
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(64), nn.Linear(64, 48)
    x = torch.randn(8, 64, requires_grad=True)
    leaves = [x, *norm.parameters(), *linear.parameters()]

    def gradients(function):
        with torch.autocast("cpu", dtype):
            found = function()
        assert found.dtype == dtype
        return found, torch.autograd.grad(found.float().square().sum(), leaves)

    usual, wanted = gradients(lambda: linear(norm(x)))
    ours, found = gradients(lambda: linear_behind(norm, linear, x))
    torch.testing.assert_close(ours, usual)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


def test_under_autocast_a_layer_learns_beside_its_usual_way():
    norm, linear, x = nn.LayerNorm(4), nn.Linear(4, 4), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        linear_behind(norm, linear, x)
        linear(x).float().sum().backward()
    assert linear.weight.grad.abs().sum() > 0


def test_who_listens_to_a_layer_hears_it():
    norm, linear, heard = nn.LayerNorm(4), nn.Linear(4, 4), []
    x = torch.randn(2, 4, requires_grad=True)
    handle = norm.register_forward_hook(lambda *_: heard.append("norm"))
    linear_behind(norm, linear, x)
    handle.remove()
    linear.register_forward_hook(lambda *_: heard.append("linear"))
    linear_behind(norm, linear, x)
    assert heard == ["norm", "linear"]


def test_a_compiler_sees_plain_operations(monkeypatch):
    norm, linear = nn.LayerNorm(4), nn.Linear(4, 4)
    x = torch.randn(2, 4, requires_grad=True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for found in (linear_behind(norm, linear, x), product_behind(norm, x, *linear.parameters())):
        assert found.grad_fn.name() == "AddmmBackward0"
