"""The corruptions of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261): 15 that count and 4
that were held out, at five severities.

The published code and the packages that carry it on (imagecorruptions 1.1.2, corrupt-tta 0.1.7)
need OpenCV, scikit-image and SciPy. The first does not import beside today's numpy and SciPy; of
the second motion blur, fog and spatter are other ones than the published. Hence our own.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from vistill.data.corruptions import degradations, weather
from vistill.data.corruptions.degradations import Pixels
from vistill.data.corruptions.spatter import spatter

Corruption = Callable[..., Pixels]

CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": degradations.gaussian_noise,
    "shot_noise": degradations.shot_noise,
    "impulse_noise": degradations.impulse_noise,
    "defocus_blur": degradations.defocus_blur,
    "glass_blur": degradations.glass_blur,
    "motion_blur": degradations.motion_blur,
    "zoom_blur": degradations.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": degradations.brightness,
    "contrast": degradations.contrast,
    "elastic_transform": degradations.elastic_transform,
    "pixelate": degradations.pixelate,
    "jpeg_compression": degradations.jpeg_compression,
    "speckle_noise": degradations.speckle_noise,
    "gaussian_blur": degradations.gaussian_blur,
    "spatter": spatter,
    "saturate": degradations.saturate,
}
"""By name, in the order of the paper's tables."""


def corrupt(
    pixels: UInt8[np.ndarray, "h w 3"],
    name: str,
    severity: int,
    rng: np.random.Generator,
    photographs: Sequence[UInt8[np.ndarray, "a b 3"]] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """A corrupted picture.

    Args:
        pixels: of a picture; lengths of the corruptions are published for one of 224 by 224.
        name: of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: what all draws are made from.
        photographs: of frost.
    """
    options = {"photographs": photographs} if name == "frost" else {}
    image = pixels.astype(np.float32) / 255
    found = CORRUPTIONS[name](image, severity, rng, **options)
    return degradations.to_bytes(found)
