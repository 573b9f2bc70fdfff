"""The view of KDEP and of the methods that are compared with it: both sides see one picture in
jittered colours, with noise along their principal directions (spec kdep)."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.augment.jitter import apply_color_jitter, jitter_draws
from vistill.augment.lighting import apply_lighting, lighting_draws
from vistill.batch import Batch, unit_pixels
from vistill.config.baselines import LogitKDConfig, RelationKDConfig
from vistill.config.methods import KDEPConfig, SupervisedConfig
from vistill.methods.shared_view import SharedView

Coloured = KDEPConfig | LogitKDConfig | RelationKDConfig | SupervisedConfig


class RecolouredView(SharedView):
    """A method whose both sides see the recoloured picture.

    Attributes:
        config: with the strengths.
    """

    config: Any

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        """Both sides' picture: jittered colours, then noise along their principal directions."""
        return replace(batch, pixels=recoloured(self.config, batch)) if augment else batch

    def cache_key(self) -> dict[str, Any]:
        """The strengths; a method adds what else its teacher's features hang on."""
        return self.config.model_dump(include={"color_jitter", "lighting_std"})


def recoloured(config: Coloured, batch: Batch) -> Float[Tensor, "b 3 *size"]:
    """The batch in jittered colours, then with noise along their principal directions; the frames
    of a clip alike."""
    shape = batch.pixels.shape
    pixels, seeds = batch.pixels.flatten(2, -2), batch.view_seeds
    jitter = None if config.color_jitter is None else jitter_draws(seeds, config.color_jitter)
    alpha = lighting_draws(seeds, config.lighting_std) if config.lighting_std > 0 else None
    if pixels.device.type != "cpu" or torch.compiler.is_compiling():
        return _recoloured(pixels, jitter, alpha).clamp(0, 1).reshape(shape)
    # On the host one at a time, which stays in the processor's cache.
    kind = torch.float32 if pixels.dtype == torch.uint8 else pixels.dtype
    found = torch.empty(pixels.shape, dtype=kind)
    for i in range(len(pixels)):
        one = slice(i, i + 1)
        its_jitter = None if jitter is None else (jitter[0][one], jitter[1][one])
        look = _recoloured(pixels[one], its_jitter, None if alpha is None else alpha[one])
        torch.clamp(look, 0, 1, out=found[one])
    return found.reshape(shape)


def _recoloured(
    pixels: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"],
    jitter: tuple[Float[Tensor, "b 3"], Int[Tensor, "b 3"]] | None,
    alpha: Float[Tensor, "b 3"] | None,
) -> Float[Tensor, "b 3 h w"]:
    pixels = unit_pixels(pixels)
    if jitter is not None:
        pixels = apply_color_jitter(pixels, *jitter)
    return pixels if alpha is None else apply_lighting(pixels, alpha)
