"""Two sides that differ in everything: normalisation, input size, patch size, prefix tokens, width,
depth, heads, precision. What a method mixes up between them shows in numbers.

`seen_by` and the other functions here compute what a side gets in plain arithmetic, without a line
of `vistill.methods`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vistill.batch import Batch
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.vit import VisionTransformer

OURS = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
THEIRS = Normalization((0.7, 0.6, 0.4), (0.2, 0.3, 0.25))
OTHERS = Normalization((0.3, 0.5, 0.6), (0.8, 0.35, 0.45))
CLIPS: dict[str, Any] = {"tubelet_size": 2, "num_frames": 4, "qkv_bias": "no_key"}


def make(sizes: dict[str, Any], seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    model = VisionTransformer(**sizes)
    for parameter in model.parameters():  # no bias and no token is zero
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def student(**changes: Any) -> VisionTransformer:
    """32 pixels in 4x4 patches, one prefix token, fp32."""
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return make({**sizes, "normalization": OURS, **changes}, 1)


def teacher(dtype: torch.dtype = torch.bfloat16, **changes: Any) -> VisionTransformer:
    """48 pixels in 4x4 patches of 12, two prefix tokens, in bf16."""
    sizes = {"image_size": 48, "patch_size": 12, "embed_dim": 24, "depth": 3, "num_heads": 4}
    model = make({**sizes, "distillation_token": True, "normalization": THEIRS, **changes}, 2)
    return model.to(dtype)


def batch(count: int = 3, *, frames: int | None = None, seed: int = 0) -> Batch:
    """Pictures (or clips) as the student's run crops them, each pixel another number."""
    generator = torch.Generator().manual_seed(seed)
    clip = () if frames is None else (frames,)
    pixels = torch.randint(0, 256, (count, 3, *clip, 32, 32), generator=generator)
    ids = torch.arange(count) + 100 * seed
    return Batch(pixels.to(torch.uint8), seeds=ids * 977 + 13, ids=ids)


def seen_by(model: Backbone, pixels: Tensor) -> Tensor:
    """`(pixels - its mean) / its std` at its size, in its precision.

    Args:
        pixels: uint8, or in [0, 1].
    """
    unit = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    if tuple(unit.shape[-2:]) != tuple(model.image_size):
        frames = unit.movedim(-3, 1).flatten(0, 1) if unit.dim() == 5 else unit
        frames = F.interpolate(frames, model.image_size, mode="bilinear", antialias=True)
        unit = frames.unflatten(0, (len(unit), -1)).movedim(1, 2) if unit.dim() == 5 else frames
    mean, std = (
        torch.tensor(values).view(3, *(1,) * (unit.dim() - 2))
        for values in (model.normalization.mean, model.normalization.std)
    )
    return ((unit - mean) / std).to(next(model.parameters()).dtype)


@torch.no_grad()
def said_by(model: Backbone, pixels: Tensor, *taps: Tap, visible: Tensor | None = None) -> Any:
    """What the model itself gives for these pixels, in fp32: one signal, or as many as taps."""
    found = model.tap(seen_by(model, pixels), taps, visible=visible)
    signals = [found[tap].float() for tap in taps]
    return signals[0] if len(taps) == 1 else signals


class Watched:
    """Keeps what a model is given: images, visible patches and draws of every call of `tap`."""

    def __init__(self, model: Backbone) -> None:
        self.images: list[Tensor] = []
        self.visible: list[Tensor | None] = []
        self.draws: list[Tensor | None] = []
        original = model.tap

        def tap(images: Tensor, taps: Any, *, visible: Any = None, drop_path_noise: Any = None):
            self.images.append(images)
            self.visible.append(visible)
            self.draws.append(drop_path_noise)
            return original(images, taps, visible=visible, drop_path_noise=drop_path_noise)

        vars(model)["tap"] = tap
