"""UMT's first stage written out as it was published (spec umt 2 to 5): every token of the teacher
is finished, normed, projected and brought to length 1, then a boolean mask chooses; the student
embeds every token and makes softmax attention tensors. Parameters carry vistill's names."""

import torch
import torch.nn.functional as F
from plain_amd import PlainViT
from torch import Tensor, nn

from vistill.methods.umt import UMT
from vistill.models.vit import VisionTransformer


class PlainTeacherBlock(nn.Module):
    """CLIP's block on torch's attention, sequence first."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, block.attn.num_heads)
        own = {
            "in_proj_weight": block.attn.qkv.weight,
            "in_proj_bias": block.attn.qkv.bias,
            "out_proj.weight": block.attn.proj.weight,
            "out_proj.bias": block.attn.proj.bias,
        }
        self.attn.load_state_dict(own)
        self.ln_1, self.ln_2, self.fc1, self.fc2 = (
            block.norm1, block.norm2, block.mlp.fc1, block.mlp.fc2,
        )  # fmt: skip

    def forward(self, x: Tensor, mapped: bool) -> tuple[Tensor, Tensor | None]:
        """Tokens, and the attention's mean over heads where it is asked for."""
        y = self.ln_1(x)
        mixed, attention = self.attn(y, y, y, need_weights=mapped)
        x = x + mixed
        hidden = self.fc1(self.ln_2(x))
        return x + self.fc2(hidden * torch.sigmoid(1.702 * hidden)), attention


class PlainCLIP(nn.Module):
    """Features of the last layers, of every token, and the class token's last attention."""

    def __init__(self, model: VisionTransformer, layers: list[int]) -> None:
        super().__init__()
        self.layers, self.model = layers, model
        self.blocks = nn.ModuleList(PlainTeacherBlock(b, model.width) for b in model.blocks)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """`[K, B, T N, C]` of length 1, and `[B T, N]`."""
        model, (b, _, _t, _, _) = self.model, clips.shape
        frames = clips.transpose(1, 2).flatten(0, 1)
        patches = F.conv2d(frames, model.patch_embed.proj.weight, stride=model.patch_size)
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
        x = model.norm_pre(x).transpose(0, 1)
        found = []
        for number, block in enumerate(self.blocks, start=1):
            x, attention = block(x, number == len(self.blocks))
            if number in self.layers:
                found.append(x)
        tokens = (
            torch.stack(found)[:, 1:].permute(0, 2, 1, 3).reshape(len(found), b, -1, x.shape[2])
        )
        features = model.norm(tokens) @ model.projection
        return features / features.norm(dim=-1, keepdim=True), attention[:, 0, 1:]


class PlainUMT(nn.Module):
    """Everything that learns; the teacher is given to `loss`."""

    def __init__(self, method: UMT) -> None:
        super().__init__()
        student = method.student
        self.student = PlainViT(student, [tap.block for tap in method.taps])
        self.decoders = method.decoders
        self.normalization, self.visible = student.normalization, method.choose.sizes.visible

    def hidden(self, importance: Tensor, noise: Tensor, batch: int) -> Tensor:
        """Boolean `[B, T N]`, True where the student sees nothing."""
        order = (importance / noise).argsort(dim=-1, descending=True, stable=True)
        hidden = torch.ones_like(importance, dtype=torch.bool)
        hidden[torch.arange(len(order))[:, None], order[:, : self.visible]] = False
        return hidden.reshape(batch, -1)

    def loss(self, teacher: PlainCLIP, pixels: Tensor, noise: Tensor) -> Tensor:
        """The loss of one step; `noise`: Exp(1), `[B T, N]`."""
        clips = self.normalization(pixels)
        with torch.no_grad():
            targets, importance = teacher(clips)
            hidden = self.hidden(importance, noise, len(clips))
            layers, _, _, width = targets.shape
            wanted = targets[:, ~hidden].reshape(layers, len(clips), -1, width)
        features, _ = self.student(clips, ~hidden)
        places = self.decoders.positions.expand(len(clips), -1, -1)[~hidden]
        places = places.reshape(len(clips), -1, places.shape[1])
        said = torch.stack(
            [
                decoder.norm(decoder.head(self.student.norm(x) + places))
                for decoder, x in zip(self.decoders.layers, features, strict=True)
            ]
        )
        said = said / said.norm(dim=-1, keepdim=True)
        return (2 - 2 * (said.float() * wanted.float()).sum(dim=-1)).mean()
