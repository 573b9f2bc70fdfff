"""A picture and many corruptions of it as views of one sample, made where it is decoded."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vistill.augment.corruptions import CORRUPTIONS, corrupt
from vistill.augment.corruptions.degradations import as_jpeg
from vistill.augment.crops import Interpolation, resize
from vistill.data.transforms import EvalTransform
from vistill.image_size import ImageSize, height_width

_NUMBERS = {name: number for number, name in enumerate(CORRUPTIONS)}


class CorruptedViews:
    """The test view of a picture as it is, then every corruption of it.

    Args:
        size: of the results, side or (height, width).
        side: of the view that is corrupted, the shorter one of a rectangle; resized to `size`
            afterwards.
        cells: corruption and severity of each view behind the first.
        quality: of the JPEG that a corrupted view is kept as; None: as it is.
        photographs: of frost.
        seed: draws derive from it, the sample, the corruption and the severity.
        interpolation: how corrupted views are resized.
    """

    def __init__(
        self,
        size: ImageSize,
        side: int,
        cells: Sequence[tuple[str, int]],
        quality: int | None,
        photographs: Sequence[str],
        seed: int,
        interpolation: Interpolation,
    ) -> None:
        self.size = height_width(size)
        factor = side / min(self.size)
        # The published pictures were resized bilinearly.
        self.view = EvalTransform(
            (round(self.size[0] * factor), round(self.size[1] * factor)), interpolation="bilinear"
        )
        self.cells, self.quality, self.photographs = tuple(cells), quality, tuple(photographs)
        self.seed, self.interpolation = seed, interpolation

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator
    ) -> list[UInt8[Tensor, "3 height width"]]:
        clean = self.view(image)
        pixels = np.ascontiguousarray(clean.permute(1, 2, 0).numpy())
        own = int(rng.integers(2**63))
        views = [clean]
        for name, severity in self.cells:
            draws = np.random.default_rng([self.seed, own, _NUMBERS[name], severity])
            found = corrupt(pixels, name, severity, draws, self.photographs)
            if self.quality is not None:
                found = as_jpeg(found, self.quality)
            views.append(torch.from_numpy(np.array(found)).permute(2, 0, 1))
        return [resize(view, *self.size, self.interpolation) for view in views]
