"""Mixup and CutMix of a whole batch on its device (arXiv 1710.09412, 1905.04899; spec 7).

One λ and one box per batch, the partner is the batch in reverse order, as timm's batch mode does.
Everything is drawn from the first sample's seed and stays on the device.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.filled import filled
from vistill.random import Stream, per_sample_uniform

_BETA_PROPOSALS = 128


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed with itself in reverse order.

    Attributes:
        share: λ of mixup, the weight of a picture's own pixels and label; scalar tensor.
        box: rows from, to, columns from, to that CutMix takes from the partner, or all 0 for none;
            int64 `[4]`. CutMix needs `share` 1: its λ follows from the box.
    """

    share: Float[Tensor, ""]
    box: Int[Tensor, " 4"]


def smoothed_targets(
    labels: Int[Tensor, " b"],
    num_classes: int,
    smoothing: float,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b c"]:
    """Off-value s/C, on-value 1 − s + s/C."""
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, dtype=dtype, device=labels.device)
    return targets.scatter(1, labels[:, None], 1.0 - smoothing + off)


def apply_mix(
    pixels: Float[Tensor, "b 3 *size"], targets: Float[Tensor, "b c"], mix: Mix
) -> tuple[Float[Tensor, "b 3 *size"], Float[Tensor, "b c"]]:
    """Mixed pixels and targets; CutMix weighs targets by the area that its box really covers.

    All frames of a clip share the box.
    """
    height, width = pixels.shape[-2:]
    top, bottom, left, right = mix.box
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device)
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    share = mix.share.to(pixels.dtype)
    blended = pixels * share + pixels.flip(0) * (1 - share)
    mixed = torch.where(inside, pixels.flip(0), blended)
    own = mix.share * (1 - inside.float().mean())
    return mixed, targets * own + targets.flip(0) * (1 - own)


def draw_mix(
    seeds: Int[Tensor, " b"],
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    probability: float = 1.0,
    switch_probability: float = 0.5,
) -> Mix:
    """Draw mixup or CutMix for one batch.

    Args:
        seeds: of the batch's samples; the first one decides.
        size: height and width in pixels.
        mixup, cutmix: parameter of the Beta distribution of λ, 0 for off; above 2 the sampler would
            no longer be certain to find a draw.
        probability: of mixing at all.
        switch_probability: of CutMix where both are on.
    """
    draws = per_sample_uniform(seeds[:1], 4 + 4 * _BETA_PROPOSALS, Stream.MIXING)[0].double()
    mixing, switch, centre = draws[0] < probability, draws[1], draws[2:4]
    for_mixup, for_cutmix = draws[4:].view(2, 2, _BETA_PROPOSALS)
    one = torch.ones((), dtype=torch.float64, device=seeds.device)
    blend = beta_sample(mixup, for_mixup) if mixup > 0 else one
    cut = beta_sample(cutmix, for_cutmix) if cutmix > 0 else one
    if mixup > 0 and cutmix > 0:
        use_cut = switch < switch_probability
    else:
        use_cut = torch.full_like(switch, cutmix > 0, dtype=torch.bool)
    blend = torch.where(mixing & ~use_cut, blend, one)
    cut = torch.where(mixing & use_cut, cut, one)
    sides = filled(size, seeds)
    half = (sides * (1 - cut).sqrt()).long() // 2
    middle = (centre * sides).long()
    low, high = (middle - half).clamp(min=0), torch.minimum(middle + half, sides)
    return Mix(blend.float(), torch.stack([low, high], dim=1).flatten())


def beta_sample(alpha: float, uniform: Float[Tensor, "2 n"]) -> Float[Tensor, ""]:
    """One draw of Beta(α, α) by Jöhnk's method: the first of n proposals that is accepted.

    Unlike `torch.distributions` it is a function of given uniform numbers.
    """
    x, y = (uniform + 2.0**-25) ** (1 / alpha)
    first = (x + y <= 1).int().argmax(0, keepdim=True)
    x, y = x[first], y[first]  # of a number as an index the host would ask the device
    return (x / (x + y)).squeeze(0)
