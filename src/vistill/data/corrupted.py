"""A picture and many corruptions of it as views of one sample, made where it is decoded."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vistill.augment.crops import Interpolation, resize
from vistill.data.corruptions import CORRUPTIONS, corrupt
from vistill.data.corruptions.degradations import as_jpeg
from vistill.data.transforms import EvalTransform
from vistill.image_size import ImageSize, height_width

_CARRIERS = ("imagecorruptions/frost", "corrupt_tta/assets/frost")
_USED = 5
"""The published code draws among the first five of its six photographs."""
_NUMBERS = {name: number for number, name in enumerate(CORRUPTIONS)}


class Photographs(NamedTuple):
    """Of frost.

    Attributes:
        place: the folder that they are in; None where there is none.
        pictures: what they show.
    """

    place: Path | None = None
    pictures: tuple[UInt8[np.ndarray, "a b 3"], ...] = ()


def frost_photographs(folder: str | None) -> Photographs:
    """A folder's pictures; of no folder, those that an installed package brings along, which is not
    imported; none where there is none."""
    places = [Path(folder)] if folder is not None else []
    for carrier in _CARRIERS if folder is None else ():
        package, _, inside = carrier.partition("/")
        spec = find_spec(package)
        places += [Path(root) / inside for root in (spec and spec.submodule_search_locations) or ()]
    for place in places:
        endings = (".png", ".jpg", ".jpeg")
        found = sorted(path for path in place.glob("*") if path.suffix.lower() in endings)
        if found:
            used = found[:_USED] if folder is None else found
            return Photographs(
                place, tuple(np.asarray(Image.open(path).convert("RGB")) for path in used)
            )
    return Photographs()


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
        photographs: Photographs,
        seed: int,
        interpolation: Interpolation,
    ) -> None:
        self.size = height_width(size)
        factor = side / min(self.size)
        # The published pictures were resized bilinearly.
        self.view = EvalTransform(
            (round(self.size[0] * factor), round(self.size[1] * factor)), interpolation="bilinear"
        )
        self.cells, self.quality, self.photographs = tuple(cells), quality, photographs.pictures
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
