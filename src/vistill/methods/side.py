"""One model as a method sees it: pixels at its own size and in its own normalisation, noise of its
own, signals by name."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.models.backbone import Backbone, Tap, TapKind
from vistill.models.taps import Visible
from vistill.models.vit import VisionTransformer
from vistill.nearest import same_depth
from vistill.random import per_sample_uniform


class Side:
    """A student or a teacher; no module, so that the model is not registered here.

    Args:
        model: the backbone.
        name: `student` or `teacher`, as error messages call it.
        stream: what its drop path draws from.
    """

    def __init__(self, model: Backbone, name: str, stream: int) -> None:
        self.model, self.name, self.stream = model, name, stream

    def images(self, batch: Batch, *, antialias: bool = True) -> Float[Tensor, "b 3 *size"]:
        """The batch at the size the model was built for, normalised for it, in its precision."""
        pixels = pixels_for(self.model, batch.unit_pixels(), antialias=antialias)
        return self.model.normalization(pixels).to(self.model.input_type)

    def draws(self, batch: Batch) -> Float[Tensor, "rows b"] | None:
        """Per-sample draws of the model's drop path; None where it drops nothing."""
        return drop_path_noise(self.model, batch.seeds, self.stream)

    def see(
        self,
        batch: Batch,
        taps: Sequence[Tap],
        *,
        visible: Visible = None,
        images: Tensor | None = None,
    ) -> dict[Tap, Tensor]:
        """What the taps give for the batch.

        Args:
            batch: what is looked at.
            taps: which signals; the model runs no further than the deepest of them.
            visible: patch indices that each sample keeps; None keeps all.
            images: `self.images(batch)`, where the caller has it already.
        """
        images = self.images(batch) if images is None else images
        noise = self.draws(batch)
        return self.model.tap(images, taps, visible=visible, drop_path_noise=noise)

    def tap(self, kind: TapKind, block: int | None = None) -> Tap:
        """A tap that the model has, of its last block by default.

        Raises:
            UserError: it has none of that kind, or not so many blocks.
        """
        model = self.model
        if kind not in model.taps:
            offered = ", ".join(sorted(model.taps))
            raise UserError(f"the {self.name} has no {kind!r} tap; it offers {offered}")
        if block is not None and block > model.depth:
            near = same_depth(block, model.depth)
            raise UserError(
                f"{self.name}.block={block}, but the {self.name} has {model.depth} blocks; as deep "
                f"in it is {self.name}.block={near}"
            )
        return Tap(kind, block or model.depth)

    def drop_path(self, rates: Sequence[float]) -> None:
        """Stochastic depth, one rate per block.

        Raises:
            UserError: the model has none, and some rate is above zero.
        """
        setter: Any = getattr(self.model, "set_drop_path", None)
        if setter is not None:
            setter(rates)
        elif any(rates):
            raise UserError(
                f"{self.name}.drop_path is only possible for vistill's own ViT; set "
                f"{self.name}.drop_path=0"
            )


def seen_by_frames(student: Backbone, does: str) -> VisionTransformer:
    """The student, if it is a plain ViT of pictures, or of clips with a token a frame.

    Raises:
        UserError: it is another; `does` is what the method does with its frames.
    """
    if not isinstance(student, VisionTransformer) or student.tubelet_size not in (None, 1):
        raise UserError(f"{does}: it has to be a plain ViT, of clips with student.tubelet_size=1")
    return student


def drop_path_noise(
    model: Backbone, seeds: Int[Tensor, " b"], stream: int
) -> Float[Tensor, "rows b"] | None:
    """Per-sample draws for the model's residual branches; None where it drops none of them."""
    draws = model.num_drop_path_draws
    return per_sample_uniform(seeds, draws, stream).T if draws else None


def pixels_for(
    model: Backbone, pixels: Float[Tensor, "b 3 *size"], *, antialias: bool = True
) -> Float[Tensor, "b 3 *size"]:
    """Pixels at the size that the model was built for, resized where they have another."""
    if tuple(pixels.shape[-2:]) == tuple(model.image_size):
        return pixels
    if pixels.dim() == 5:  # frame by frame
        frames = pixels_for(model, pixels.transpose(1, 2).flatten(0, 1), antialias=antialias)
        return frames.unflatten(0, (-1, pixels.shape[2])).transpose(1, 2)
    return F.interpolate(pixels, size=model.image_size, mode="bilinear", antialias=antialias)


def rising(rate: float, depth: int) -> list[float]:
    """Drop path rates from zero in the first block to `rate` in the last."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]
