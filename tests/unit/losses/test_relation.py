"""The relation loss: exact, finite at any gap, fp32 inside, and nothing of size N² kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistill.losses.distances import smooth_l1
from vistill.losses.relation import relation_kl_from_logits, relation_logits, relation_loss


def factors(batch=2, tokens=6, widths=(8, 12), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(width):
        return torch.randn(batch, tokens, width, generator=generator, dtype=dtype)

    student = (draw(widths[0]).requires_grad_(), draw(widths[0]).requires_grad_())
    return student, (draw(widths[1]), draw(widths[1]))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    tokens=st.integers(1, 7),
    heads=st.sampled_from([1, 2, 4]),
    chunk=st.sampled_from([1, 700, 1 << 20]),
    softmax=st.booleans(),
)
def test_equals_the_plain_formulation(batch, tokens, heads, chunk, softmax):
    student, teacher = factors(batch, tokens, seed=batch * 10 + tokens)
    logits = relation_logits(*student, heads), relation_logits(*teacher, heads)
    expected = relation_kl_from_logits(*logits) if softmax else smooth_l1(*logits)
    found = relation_loss(student, teacher, heads, softmax=softmax, chunk_bytes=chunk)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, student),
        torch.autograd.grad(expected, student),
        atol=1e-12,
        rtol=1e-9,
    )


@pytest.mark.parametrize("gap", [100.0, 1000.0, 1e4])
def test_gradients_stay_finite_at_any_logit_gap(gap):
    values = torch.tensor([[[0.0], [gap]]], requires_grad=True)
    one = torch.tensor([[[1.0], [1.0]]])
    loss = relation_loss((one, values), (one, -values.detach()), 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(values.grad).all()
    assert values.grad.abs().sum() > 0


def test_identical_relations_have_no_loss():
    student, _ = factors()
    detached = tuple(t.detach() for t in student)
    assert relation_loss(student, detached, 2).item() == pytest.approx(0, abs=1e-12)


def test_bfloat16_inputs_are_compared_in_fp32():
    student, teacher = factors(dtype=torch.float32)
    half = tuple(t.detach().bfloat16().requires_grad_() for t in student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relation_loss(half, tuple(t.bfloat16() for t in teacher), 2)
    assert found.dtype == torch.float32
    same_values = (
        tuple(t.detach().float() for t in half),
        tuple(t.bfloat16().float() for t in teacher),
    )
    torch.testing.assert_close(found, relation_loss(*same_values, 2), atol=0, rtol=0)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_near_convergence_gradients_survive_in_half_precision(dtype, softmax):
    """Logits 0.03 apart, and the loss scale that fp16 begins with."""
    student, _ = factors(batch=8, tokens=196, widths=(384, 384), dtype=torch.float32)
    half = tuple(factor.detach().to(dtype).requires_grad_() for factor in student)
    full = tuple(factor.detach().float().requires_grad_() for factor in half)
    noise = torch.randn(full[0].shape, generator=torch.Generator().manual_seed(1))
    teacher = full[0].detach() + 0.03 * noise, full[1].detach()
    apart = relation_logits(*full, 12) - relation_logits(*teacher, 12)
    assert 0.02 < apart.std() < 0.04
    loss_scale = 2.0**16
    (loss_scale * relation_loss(half, teacher, 12, softmax=softmax)).backward()
    relation_loss(full, teacher, 12, softmax=softmax).backward()
    for ours, wanted in zip(half, full, strict=True):
        assert ours.grad.dtype == dtype
        similar = torch.cosine_similarity(ours.grad.flatten().float(), wanted.grad.flatten(), dim=0)
        assert similar > 0.999
        assert ours.grad.float().norm() / loss_scale == pytest.approx(
            wanted.grad.norm().item(), rel=0.01
        )


def test_nothing_of_quadratic_size_is_kept_for_the_backward_pass():
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    student, teacher = factors(batch=2, tokens=40)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        relation_loss(student, teacher, 4).backward()
    assert max(kept) == student[0].numel()
