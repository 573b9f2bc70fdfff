"""AMD written out as it was published (spec amd 3 to 8): boolean masks, every token embedded,
softmax attention tensors, projections evaluated once per loss. Parameters carry vistill's names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistill.methods.amd import AMD
from vistill.models.vit import VisionTransformer


class PlainAttention(nn.Module):
    """Attention with an explicit map; the key bias is zero."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, d))


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = PlainAttention(width, num_heads)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, int(width * mlp_ratio)),
                "fc2": nn.Linear(int(width * mlp_ratio), width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainViT(nn.Module):
    """All tokens are embedded, then boolean masks choose; every block runs.

    Args:
        model: whose sizes and weights to take.
        layers: blocks whose outputs are returned, counted from 1.
    """

    def __init__(self, model: VisionTransformer, layers: list[int]) -> None:
        super().__init__()
        self.layers = layers
        kernel = (model.tubelet_size, model.patch_size, model.patch_size)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, model.width, kernel, kernel)})
        self.pos_embed = nn.Parameter(torch.zeros(1, model.num_patches, model.width), False)
        self.blocks = nn.ModuleList(
            PlainBlock(model.width, heads, model.mlp_ratio) for heads in model.num_heads
        )
        self.norm = nn.LayerNorm(model.width, eps=1e-6)
        self.load_state_dict(model.state_dict())

    def forward(self, clips: Tensor, *chosen: Tensor) -> tuple[list[Tensor], Tensor]:
        """Outputs of `layers`, and the last tokens; `chosen`: boolean `[B, N]`, one after the
        other."""
        x = self.patch_embed["proj"](clips).flatten(2).transpose(1, 2) + self.pos_embed
        b, _, d = x.shape
        x = torch.cat([x[mask].reshape(b, -1, d) for mask in chosen], dim=1)
        found = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.layers:
                found.append(x)
        return found, x


class PlainHead(nn.Module):
    """Blocks behind mask tokens: a generator, or the decoder with its embedding and output."""

    def __init__(self, like: nn.Module, embed: int | None, out: int | None) -> None:
        super().__init__()
        width = like.mask_token.shape[2]
        self.mask_token = nn.Parameter(like.mask_token.detach().clone())
        self.register_buffer("table", like.pos_embed.clone(), persistent=False)
        if embed is not None:
            self.embed = nn.Linear(embed, width, bias=False)
        ratio = like.blocks[0].mlp.fc1.out_features / width
        self.blocks = nn.ModuleList(
            PlainBlock(width, block.attn.num_heads, ratio) for block in like.blocks
        )
        if out is not None:
            self.norm, self.pred = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, out)
        self.load_state_dict(like.state_dict())

    def forward(self, x: Tensor, known: Tensor, missing: Tensor) -> Tensor:
        if hasattr(self, "embed"):
            x = self.embed(x)
        b, _, d = x.shape
        table = self.table.expand(b, -1, -1)
        places = (table[mask].reshape(b, -1, d) for mask in (known, missing))
        here, there = places
        x = torch.cat([x + here, self.mask_token + there], dim=1)
        for block in self.blocks:
            x = block(x)
        x = x[:, -there.shape[1] :]
        return self.pred(self.norm(x)) if hasattr(self, "pred") else x


class PlainAMD(nn.Module):
    """Everything that learns; the teacher is given to `loss`."""

    def __init__(self, method: AMD) -> None:
        super().__init__()
        student, pairs = method.student, method.direct.pairs
        self.student = PlainViT(student, [ours for ours, _ in pairs])
        self.projections = nn.ModuleList(
            nn.Linear(p.in_features, p.out_features, bias=False) for p in method.projections
        )
        self.projections.load_state_dict(method.projections.state_dict())
        self.generators = nn.ModuleList(PlainHead(g, None, None) for g in method.generators)
        decoder = method.painter.decoder
        self.painter = nn.ModuleDict(
            {"decoder": PlainHead(decoder, student.width, decoder.pred.out_features)}
        )
        self.normalization = student.normalization
        self.patch, self.tubelet = student.patch_size, student.tubelet_size
        self.mask_sizes = method.mask_sizes

    def masks(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boolean `[B, N]`: seen by both, by the teacher alone, hidden from the student."""
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1).repeat(1, self.mask_sizes.slots)
        visible = rank < self.mask_sizes.visible
        return visible, ~visible & (rank < self.mask_sizes.seen), ~visible

    def target(self, clips: Tensor) -> Tensor:
        """Normalised cubes of all tokens, from normalised clips."""
        mean, std = (
            torch.tensor(v, device=clips.device)[None, :, None, None, None]
            for v in (self.normalization.mean, self.normalization.std)
        )
        b, c, t, h, w = clips.shape
        p, k = self.patch, self.tubelet
        cubes = (clips * std + mean).reshape(b, c, t // k, k, h // p, p, w // p, p)
        cubes = cubes.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, -1, k * p * p, c)
        centred = cubes - cubes.mean(dim=2, keepdim=True)
        return (centred / (cubes.var(dim=2, keepdim=True).sqrt() + 1e-6)).flatten(2)

    def loss(self, teacher: PlainViT, pixels: Tensor, noise: Tensor) -> Tensor:
        """The loss of one step."""
        clips = self.normalization(pixels)
        visible, extra, hidden = self.masks(noise)
        with torch.no_grad():
            targets, _ = teacher(clips, visible, extra)
            wanted = self.target(clips)
            wanted = wanted[hidden].reshape(len(clips), -1, wanted.shape[2])
        features, latent = self.student(clips, visible)
        count = features[0].shape[1]
        direct = [
            F.mse_loss(project(z).float(), target[:, :count].float())
            for project, z, target in zip(self.projections, features, targets, strict=True)
        ]
        generation = [
            F.mse_loss(generate(project(z), visible, extra).float(), target[:, count:].float())
            for generate, project, z, target in zip(
                self.generators, self.projections, features, targets, strict=True
            )
        ]
        painted = self.painter["decoder"](self.student.norm(latent), visible, hidden)
        reconstruction = F.mse_loss(painted.float(), wanted.float())
        return sum(direct) / len(direct) + sum(generation) / len(generation) + reconstruction
