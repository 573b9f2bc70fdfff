"""A step of feature distillation written down plainly: the other side of the benchmark.

As published: CLIP's own blocks around torch's multi-head attention, run whole; a BEiT-style student
whose attention is a softmax tensor in every block, with one bias table looked up per forward pass;
a 1×1 convolution between two transpositions; whitening and smooth L1 in the open. Parameter names
are vistill's, so that weights are simply copied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistill.models.vit import VisionTransformer


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)
        self.attn = nn.MultiheadAttention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainClip(nn.Module):
    """CLIP's image tower; all tokens behind its last norm."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        dim = model.width
        self.conv1 = nn.Conv2d(3, dim, model.patch_size, model.patch_size, bias=False)
        self.class_embedding = nn.Parameter(model.cls_token.detach()[0, 0].clone())
        self.positional_embedding = nn.Parameter(model.pos_embed.detach()[0].clone())
        self.ln_pre, self.ln_post = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)
        self.blocks = nn.ModuleList(ClipBlock(dim, heads) for heads in model.num_heads)
        pairs = [
            (self.conv1, model.patch_embed.proj),
            (self.ln_pre, model.norm_pre),
            (self.ln_post, model.norm),
        ]
        for mine, theirs in zip(self.blocks, model.blocks, strict=True):
            mine.attn.in_proj_weight.data.copy_(theirs.attn.qkv.weight)
            mine.attn.in_proj_bias.data.copy_(theirs.attn.qkv.bias)
            pairs += [
                (mine.ln_1, theirs.norm1),
                (mine.ln_2, theirs.norm2),
                (mine.attn.out_proj, theirs.attn.proj),
                (mine.mlp[0], theirs.mlp.fc1),
                (mine.mlp[2], theirs.mlp.fc2),
            ]
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        x = x.transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x.transpose(0, 1))


class BeitAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, n, d = x.shape
        offsets = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, offsets)
        q, k, v = qkv.reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * self.scale) @ k.transpose(-2, -1) + bias[None]
        mixed = attention.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(b, n, d))


class Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class BeitBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = BeitAttention(dim, num_heads), Mlp(dim)
        self.ls1, self.ls2 = Scale(dim), Scale(dim)


class PlainBeit(nn.Module):
    """The student: one bias table instead of absolute positions; all tokens behind the norm."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        dim = model.width
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, model.patch_size, model.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.rel_pos_bias = nn.Module()
        table = model.rel_pos_bias.relative_position_bias_table
        self.rel_pos_bias.relative_position_bias_table = nn.Parameter(torch.zeros_like(table))
        self.index = model.rel_pos_bias.relative_position_index.clone()
        self.blocks = nn.ModuleList(BeitBlock(dim, heads) for heads in model.num_heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.load_state_dict(model.state_dict())

    def forward(self, images: Tensor, keep: list[Tensor]) -> Tensor:
        """`keep`: drop path factors, two for each block but the first."""
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        table = self.rel_pos_bias.relative_position_bias_table
        bias = table[self.index.view(-1)].view(*self.index.shape, -1).permute(2, 0, 1).contiguous()
        factors = [1.0, 1.0, *keep]
        for number, block in enumerate(self.blocks):
            branch = block.ls1.gamma * block.attn(block.norm1(x), bias)
            x = x + branch * factors[2 * number]
            branch = block.ls2.gamma * block.mlp(block.norm2(x))
            x = x + branch * factors[2 * number + 1]
        return self.norm(x)


def plain_loss(
    student: PlainBeit,
    projector: nn.Conv1d,
    teacher: PlainClip,
    student_images: Tensor,
    teacher_images: Tensor,
    keep: list[Tensor],
) -> Tensor:
    """The loss of one step."""
    with torch.no_grad():
        target = teacher(teacher_images)
        target = F.layer_norm(target, target.shape[-1:])
    tokens = student(student_images, keep)
    found = projector(tokens.permute(0, 2, 1)).permute(0, 2, 1)
    return F.smooth_l1_loss(found, target, beta=2.0)
