"""A TinyMIM step written down plainly: the other side of the benchmarks, no part of vistill.

The teacher runs under `no_grad`, attention is a softmax tensor, the relations of both sides are
softmax tensors of `[B, M, N, N]`, the loss is the KL against the logarithm of the student's, and
autograd does the rest. Parameter names are timm's, so that weights are simply copied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistill.models.vit import VisionTransformer


class PlainAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def softmax(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(-2, -1) * self.scale).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.proj((self.softmax(q, k) @ v).transpose(1, 2).flatten(2))


class PlainMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(dim, int(dim * mlp_ratio))


class PlainViT(nn.Module):
    """A ViT that returns the softmaxed relations (QK, VV) of one block.

    Args:
        model: whose sizes and weights to take.
        block: which block's relations, counted from 1; it gets `relation_heads` heads. What stands
            behind them is not run.
    """

    def __init__(self, model: VisionTransformer, block: int, relation_heads: int) -> None:
        super().__init__()
        self.block = block
        self.normalization = model.normalization
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, model.width, model.patch_size, model.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + model.num_patches, model.width), False)
        heads = [*model.num_heads]
        heads[block - 1] = relation_heads
        self.blocks = nn.ModuleList(PlainBlock(model.width, h, model.mlp_ratio) for h in heads)
        self.norm = nn.LayerNorm(model.width, eps=1e-6)
        self.load_state_dict(model.state_dict())

    def forward(self, images: Tensor, keep: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Relations `[B, M, N, N]`; `keep`: drop path factors, two for each block but the last."""
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x], dim=1)
        for number, block in enumerate(self.blocks[: self.block - 1]):
            branch = block.attn(block.norm1(x))
            x = x + (branch if keep is None else branch * keep[2 * number])
            branch = block.mlp(block.norm2(x))
            x = x + (branch if keep is None else branch * keep[2 * number + 1])
        last = self.blocks[self.block - 1]
        q, k, v = last.attn.split(last.norm1(x))
        return last.attn.softmax(q, k), last.attn.softmax(v, v)


def drop_path_factors(uniform: Tensor, rate: float) -> list[Tensor]:
    """One factor `[B, 1, 1]` per residual branch from uniform draws `[branches, B]`."""
    return [(torch.floor(1 - rate + u) / (1 - rate))[:, None, None] for u in uniform]


def relation_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of softmaxed relations, mean over batch, heads and queries (TinyMIM, equation 9)."""
    return F.kl_div(student.log(), teacher, reduction="none").sum(dim=-1).mean()


def plain_loss(
    student: PlainViT,
    teacher: PlainViT,
    student_images: Tensor,
    teacher_images: Tensor,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """The loss of one step."""
    with torch.no_grad():
        targets = teacher(teacher_images)
    relations = student(student_images, keep)
    return sum(relation_kl(s, t) for s, t in zip(relations, targets, strict=True))
