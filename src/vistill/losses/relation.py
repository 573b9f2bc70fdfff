"""Relation distillation (TinyMIM, equations 6-9; spec 4): KL between softmaxed token relations.

A relation tensor `[B, M, N, N]` is never kept. The gradient of the KL with respect to the
student's logits is (p - t) / (B·M·N), so one pass over small chunks of the batch gives the loss and
the gradients of the student's two factors, `[B, N, D]` each; the backward pass only scales them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vistill.losses.distances import at_least_fp32, softmax_kl

SMOOTH_L1_BETA = 2.0
# One relation tensor of a pass. On a host, passes over what the caches hold are two to three times
# as fast as over fresh memory; elsewhere a chunk has to be large enough to fill the device.
HOST_CHUNK_BYTES = 2 * 2**20
DEVICE_CHUNK_BYTES = 32 * 2**20


def split_heads(x: Float[Tensor, "b n d"], num_heads: int) -> Float[Tensor, "b m n dh"]:
    """Split channels into heads, in fp32 or better."""
    return at_least_fp32(x).unflatten(2, (num_heads, -1)).transpose(1, 2)


def relation_logits(
    a: Float[Tensor, "b n d"], b: Float[Tensor, "b n d"], num_heads: int
) -> Float[Tensor, "b m n n"]:
    """A·Bᵀ·d^-0.5 per head, in fp32 or better, where no logit can overflow."""
    left, right = split_heads(a, num_heads), split_heads(b, num_heads)
    return (left * left.shape[-1] ** -0.5) @ right.transpose(2, 3)


def relation_kl_from_logits(
    student: Float[Tensor, "b m n n"], teacher: Float[Tensor, "b m n n"]
) -> Float[Tensor, ""]:
    """KL(teacher || student) per row of keys, mean over batch, heads and queries.

    Log-softmax on both sides: finite gradients at any logit gap, 0 where a target probability is 0.
    """
    log_p, log_t = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    return (log_t.exp() * (log_t - log_p)).sum(dim=-1).mean()


def _chunk_loss(student: Tensor, teacher: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    """Summed loss of some relations and its gradient with respect to the student's logits."""
    if softmax:
        log_t = teacher.log_softmax(dim=-1)
        target = log_t.exp()
        log_p = student.log_softmax(dim=-1)
        loss = log_t.sub_(log_p).mul_(target).sum()
        return loss, log_p.exp_().sub_(target)
    loss = F.smooth_l1_loss(student, teacher, beta=SMOOTH_L1_BETA, reduction="sum")
    return loss, (student - teacher).div_(SMOOTH_L1_BETA).clamp_(-1, 1)


class _RelationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_a: Tensor,
        student_b: Tensor,
        teacher_a: Tensor,
        teacher_b: Tensor,
        num_heads: int,
        softmax: bool,
        chunk_bytes: int,
    ) -> Tensor:
        batch, tokens, width = student_a.shape
        needs_gradient = any(ctx.needs_input_grad[:2])
        with torch.autocast(student_a.device.type, enabled=False):
            dtype = torch.promote_types(student_a.dtype, torch.float32)
            per_sample = num_heads * tokens * tokens * dtype.itemsize
            step = max(1, min(batch, chunk_bytes // per_sample))
            count = batch * num_heads * tokens * (1 if softmax else tokens)
            scale = (width // num_heads) ** -0.5
            total = torch.zeros((), dtype=dtype, device=student_a.device)
            # Divided by `count` they would vanish in fp16: the loss scale comes with the backward
            # pass; bf16 reaches as far as fp32.
            half = torch.bfloat16 if student_a.dtype == torch.float16 else None
            gradient_a = torch.empty_like(student_a, dtype=half) if needs_gradient else None
            gradient_b = torch.empty_like(student_b, dtype=half) if needs_gradient else None
            for start in range(0, batch, step):
                rows = slice(start, start + step)
                left = split_heads(student_a[rows], num_heads) * scale
                right = split_heads(student_b[rows], num_heads)
                loss, gradient = _chunk_loss(
                    left @ right.transpose(2, 3),
                    relation_logits(teacher_a[rows], teacher_b[rows], num_heads).to(dtype),
                    softmax,
                )
                total += loss
                if gradient_a is not None and gradient_b is not None:
                    to_a = (gradient @ right) * (scale / count)
                    to_b = (gradient.transpose(2, 3) @ left) / count
                    gradient_a[rows] = to_a.transpose(1, 2).flatten(2)
                    gradient_b[rows] = to_b.transpose(1, 2).flatten(2)
        if needs_gradient:
            ctx.save_for_backward(gradient_a, gradient_b)
            ctx.dtypes = student_a.dtype, student_b.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        upstream = grad_outputs[0]
        scaled = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (*((gradient * upstream).to(dtype) for gradient, dtype in scaled), *(None,) * 5)


def relation_loss(
    student: tuple[Float[Tensor, "b n ds"], Float[Tensor, "b n ds"]],
    teacher: tuple[Float[Tensor, "b n dt"], Float[Tensor, "b n dt"]],
    num_heads: int,
    *,
    softmax: bool = True,
    chunk_bytes: int | None = None,
) -> Float[Tensor, ""]:
    """Distance between the relations A·Bᵀ of student and teacher.

    Args:
        student: the two factors (for example queries and keys), heads concatenated.
        teacher: the teacher's factors; no gradient flows to them.
        num_heads: heads into which both sides are split; must divide both widths.
        softmax: KL between softmaxed relations; otherwise smooth L1 (β = 2) of scaled products.
        chunk_bytes: most memory that one relation tensor may take at a time, but for one sample;
            None: what suits the device.

    Returns:
        The mean over batch, heads and queries (without softmax also over keys).
    """
    if chunk_bytes is None:
        on_host = student[0].device.type == "cpu"
        chunk_bytes = HOST_CHUNK_BYTES if on_host else DEVICE_CHUNK_BYTES
    return _RelationLoss.apply(*student, *teacher, num_heads, softmax, chunk_bytes)


def cosine_relation_loss(
    student: Float[Tensor, "b n ds"], teacher: Float[Tensor, "b n dt"], temperature: float
) -> Float[Tensor, ""]:
    """KL between softmaxed cosines of every token to all tokens of its picture, over a temperature.

    Returns:
        KL(teacher || student), the mean over batch and tokens.
    """
    factors = []
    for side in (student, teacher):
        ones = F.normalize(at_least_fp32(side), dim=2)
        factors.append((ones * (side.shape[2] ** 0.5 / temperature), ones))
    return relation_loss(factors[0], factors[1], 1)


def queue_kl(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    keys: Float[Tensor, "k d"],
    known: Bool[Tensor, " k"],
    temperature: float,
) -> Float[Tensor, ""]:
    """KL between softmaxed products of features with the same keys, over a temperature.

    Args:
        student, teacher: features of length one.
        keys: features of length one that both are compared with.
        known: which of them count.
        temperature: of both sides.

    Returns:
        KL(teacher || student), the mean over the batch.
    """
    with torch.autocast(keys.device.type, enabled=False):
        ours, theirs = (
            # An unknown key's share underflows to 0, without an infinity in the gradient.
            (side @ keys.mT / temperature).masked_fill(~known, -1e4)
            for side in (student, teacher)
        )
        return softmax_kl(ours, theirs)
