"""RandAugment (Cubuk et al., arXiv 1909.13719) with timm's operations, magnitudes and notation.

One difference: posterising always keeps a bit. Zero bits, which magnitude 10 asks for, is a black
picture in some versions of Pillow and a crash in others.
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from vistill.errors import UserError

FILL = (124, 116, 104)
"""ImageNet's mean colour, where a picture is moved out of sight."""
MAX_MAGNITUDE = 10.0
UNIFORM_ABOVE = 100.0
PART = re.compile(r"(mstd|inc|m|n|p)(\d+(?:\.\d*)?)")


class RandAugment:
    """A few random operations in a row.

    Args:
        notation: `rand` and, joined by dashes, `m` magnitude of 10, `n` operations (2), `p`
            probability of each (0.5), `mstd` deviation of the magnitude (0; above 100: uniform
            up to the magnitude), `inc1` for operations that all get stronger with the magnitude.

    Raises:
        UserError: for anything else.
    """

    def __init__(self, notation: str) -> None:
        head, *parts = notation.split("-")
        found = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
        for part in parts:
            match = PART.fullmatch(part)
            if match is None:
                raise UserError(
                    f"RandAugment '{notation}': '{part}' is not one of m, n, p, mstd, inc with a "
                    "number, as in rand-m9-mstd0.5-inc1"
                )
            found[match[1]] = float(match[2])
        if head != "rand":
            raise UserError(f"RandAugment '{notation}' must start with 'rand'")
        self.magnitude = found["m"]
        self.count = int(found["n"])
        self.probability = found["p"]
        self.deviation = found["mstd"]
        self.increasing = bool(found["inc"])

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator
    ) -> UInt8[Tensor, "3 h w"]:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for name in rng.choice(len(NAMES), self.count):
            if rng.random() < self.probability:
                sign = 1.0 if rng.random() < 0.5 else -1.0
                level = self.draw_magnitude(rng)
                picture = augment(picture, NAMES[name], level, sign, increasing=self.increasing)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def draw_magnitude(self, rng: np.random.Generator) -> float:
        """A magnitude in 0..10."""
        if self.deviation > UNIFORM_ABOVE:
            level = rng.uniform(0.0, self.magnitude)
        else:
            level = rng.normal(self.magnitude, self.deviation)
        return min(max(level, 0.0), MAX_MAGNITUDE)


def augment(
    image: Image.Image, name: str, magnitude: float, sign: float, *, increasing: bool
) -> Image.Image:
    """Apply one operation of `NAMES` at a magnitude in 0..10 into the direction of `sign`."""
    return OPERATIONS[name](image, magnitude / MAX_MAGNITUDE, sign, increasing)


Operation = Callable[[Image.Image, float, float, bool], Image.Image]


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BICUBIC,
        fillcolor=FILL,
    )


def _rotate(image: Image.Image, level: float, sign: float, increasing: bool) -> Image.Image:
    return image.rotate(sign * level * 30, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def _posterize(image: Image.Image, level: float, sign: float, increasing: bool) -> Image.Image:
    bits = 4 - int(level * 4) if increasing else int(level * 4)
    return ImageOps.posterize(image, max(bits, 1))


def _solarize(image: Image.Image, level: float, sign: float, increasing: bool) -> Image.Image:
    threshold = min(256, int(level * 256))
    return ImageOps.solarize(image, 256 - threshold if increasing else threshold)


def _solarize_add(image: Image.Image, level: float, sign: float, increasing: bool) -> Image.Image:
    added = min(128, int(level * 110))
    return image.point([min(255, i + added) if i < 128 else i for i in range(256)] * 3)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def apply(image: Image.Image, level: float, sign: float, increasing: bool) -> Image.Image:
        factor = max(0.1, 1.0 + sign * level * 0.9) if increasing else level * 1.8 + 0.1
        return kind(image).enhance(factor)

    return apply


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, level, sign, inc: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign, inc: ImageOps.equalize(image),
    "Invert": lambda image, level, sign, inc: ImageOps.invert(image),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": lambda image, level, sign, inc: _affine(image, 1, sign * level * 0.3, 0, 0, 1, 0),
    "ShearY": lambda image, level, sign, inc: _affine(image, 1, 0, 0, sign * level * 0.3, 1, 0),
    "TranslateXRel": lambda image, level, sign, inc: _affine(
        image, 1, 0, sign * level * 0.45 * image.width, 0, 1, 0
    ),
    "TranslateYRel": lambda image, level, sign, inc: _affine(
        image, 1, 0, 0, 0, 1, sign * level * 0.45 * image.height
    ),
}
NAMES = list(OPERATIONS)
