"""Pictures with their masks as a fourth channel, and what becomes of both in training (spec 9; spec
kdep 11.2)."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vistill.augment.crops import resize
from vistill.augment.hue import apply_color_shift
from vistill.config.segmentation import SegmentationConfig
from vistill.data.broken import BrokenImage
from vistill.data.decode import EndMissing, decode_image
from vistill.data.source import Source
from vistill.errors import UserError
from vistill.evaluation.segmentation.layouts import Pairs

IGNORED = 255
"""Number of the pixels that nothing is learned from, whatever it is in the masks."""
_CHECKED = 200
_TRIES = 10
_PAD = (124, 116, 104)
_UNKNOWN = 254
_BLUR = 5


def mask_values(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The numbers in a mask, of a palette its indices.

    Raises:
        BrokenImage: it cannot be read, or holds colours.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise BrokenImage(
                    f"its mask {path.name} is a picture in colour; masks hold numbers of classes"
                )
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenImage(f"its mask {path.name} cannot be read: {error}") from error
    if values.size and values.max() > 255:
        raise BrokenImage(f"its mask {path.name} holds {values.max()}; numbers go up to 255")
    return values.astype(np.uint8)


class PairDecoder:
    """Decodes a picture and its mask, whose numbers become those of classes (255: left out)."""

    def __init__(self, pairs: Pairs) -> None:
        self.masks = pairs.masks
        self.table = np.full(256, _UNKNOWN, np.uint8)
        self.table[list(pairs.number_of)] = list(pairs.number_of.values())
        self.table[list(pairs.ignored)] = IGNORED

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> UInt8[Tensor, "4 h w"]:
        try:
            image = decode_image(source.read(sample), source.decoding.value_range)
        except EndMissing as error:
            if not source.decoding.allow_truncated:
                raise BrokenImage(str(error)) from error
            image = error.pixels
        values = mask_values(self.masks[sample])
        if values.shape != image.shape[1:]:
            raise BrokenImage(unequal(self.masks[sample], values.shape, image.shape[1:]))
        mask = torch.from_numpy(self.table[values])
        if bool((mask == _UNKNOWN).any()):
            number = values[self.table[values] == _UNKNOWN].max()
            raise BrokenImage(f"its mask {self.masks[sample].name} holds {number}, no class")
        return torch.cat([image, mask[None]])


def unequal(mask: Path, own: tuple[int, ...], picture: tuple[int, ...]) -> str:
    """What is wrong with a mask of another size."""
    sizes = f"{own[1]}×{own[0]} pixels and the picture {picture[1]}×{picture[0]}"
    return f"its mask {mask.name} is {sizes}"


def require_masks(pairs: Pairs) -> None:
    """Look at the sizes of all masks, and at the numbers in some of them.

    Raises:
        UserError: a mask of another size than its picture, or with a number that is no class.
    """
    every = max(1, len(pairs.masks) // _CHECKED)
    for number, (picture, mask) in enumerate(zip(pairs.pictures, pairs.masks, strict=True)):
        try:
            with Image.open(picture) as one, Image.open(mask) as other:
                turned = one.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                width, height = reversed(one.size) if turned else one.size
                if other.size != (width, height):
                    raise UserError(
                        f"{picture}: {unequal(mask, other.size[::-1], (height, width))}"
                    )
        except OSError:
            continue  # counted as broken when it is read
        if number % every:
            continue
        try:
            values = set(np.unique(mask_values(mask)).tolist())
        except BrokenImage as error:
            raise UserError(f"{picture}: {error}") from error
        for value in sorted(values - set(pairs.number_of) - pairs.ignored):
            raise UserError(
                f"{mask} holds the number {value}, and there are {len(pairs.classes)} classes, "
                f"{min(pairs.number_of)} to {max(pairs.number_of)}; name more in "
                f"segmentation.classes, or give segmentation.ignore={value}"
            )


def scaled_size(
    height: int, width: int, options: SegmentationConfig, crop: int, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width of a picture whose shorter side becomes `short_side` (or `crop`, where
    neither side is said), as far as the longer one does not pass `long_side`; both times `scale`.
    """
    long = options.long_side
    short = options.short_side or (None if long else crop)
    factors = [] if short is None else [short / min(height, width)]
    factors += [] if long is None else [long / max(height, width)]
    factor = scale * min(factors, default=1.0)
    return max(1, round(height * factor)), max(1, round(width * factor))


class TrainCrop:
    """Scale, turn, random crop, flip, distortion of colours, blur.

    Args:
        options: how much of each.
        crop: side of the result.
    """

    def __init__(self, options: SegmentationConfig, crop: int) -> None:
        self.options, self.crop = options, crop

    def __call__(
        self, both: UInt8[Tensor, "4 h w"], rng: np.random.Generator
    ) -> UInt8[Tensor, "4 crop crop"]:
        options = self.options
        height, width = both.shape[1:]
        size = scaled_size(height, width, options, self.crop, rng.uniform(*options.scale))
        image = resize(both[:3], *size, "bilinear")
        mask = F.interpolate(both[None, 3:], size, mode="nearest-exact")[0]
        both = torch.cat([image, mask])
        if options.rotate:
            both = turned(both, rng.uniform(-options.rotate, options.rotate))
        both = self._cropped(self._padded(both), rng)
        if rng.random() < options.flip:
            both = both.flip(-1)
        image = both[:3].float() / 255
        if options.distort:
            image = distorted(image, rng)
        if options.blur and rng.random() < options.blur:
            image = blurred(image, rng.uniform(0.1, 2.0))
        return torch.cat([(image * 255).round().clamp(0, 255).to(torch.uint8), both[3:]])

    def _padded(self, both: UInt8[Tensor, "4 h w"]) -> UInt8[Tensor, "4 h2 w2"]:
        height, width = both.shape[1:]
        size = max(height, self.crop), max(width, self.crop)
        if size == (height, width):
            return both
        found = torch.tensor([*_PAD, IGNORED], dtype=torch.uint8)[:, None, None].repeat(1, *size)
        found[:, :height, :width] = both
        return found

    def _cropped(
        self, both: UInt8[Tensor, "4 h w"], rng: np.random.Generator
    ) -> UInt8[Tensor, "4 crop crop"]:
        room = [side - self.crop for side in both.shape[1:]]
        part = both
        for _ in range(_TRIES):
            top, left = rng.integers(0, room, endpoint=True).tolist()
            part = both[:, top : top + self.crop, left : left + self.crop]
            seen = part[3][part[3] != IGNORED].long().bincount()
            present = int((seen > 0).sum())
            if present > 1 and seen.max() < self.options.most_of_a_class * seen.sum():
                break
            if self.options.most_of_a_class == 1:
                break
        return part


def turned(both: UInt8[Tensor, "4 h w"], degrees: float) -> UInt8[Tensor, "4 h w"]:
    """Picture and mask turned about their middle; what comes from outside is left out."""
    angle, (height, width) = math.radians(degrees), both.shape[1:]
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
    grid = F.affine_grid(torch.tensor([matrix]), [1, 1, height, width], align_corners=False)
    fill = torch.tensor([*_PAD, IGNORED], dtype=torch.float32)[None, :, None, None]
    values = both[None].float() - fill
    image = F.grid_sample(values[:, :3], grid, mode="bilinear", align_corners=False)
    mask = F.grid_sample(values[:, 3:], grid, mode="nearest", align_corners=False)
    return (torch.cat([image, mask], dim=1) + fill)[0].round().clamp(0, 255).to(torch.uint8)


def distorted(image: Float[Tensor, "3 h w"], rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
    """Brightness by up to 32 of 255, contrast and saturation by a half, hue by 18 degrees, each
    with a probability of a half (SSD's photometric distortion)."""
    doubts = rng.random(4) < 0.5
    shift, contrast = rng.uniform(-32, 32) / 255, rng.uniform(0.5, 1.5)
    saturation, turn = rng.uniform(0.5, 1.5), rng.uniform(-18, 18) / 360
    if doubts[0]:
        image = (image + shift).clamp(0, 1)
    if doubts[1]:
        image = (image * contrast).clamp(0, 1)
    if doubts[2] or doubts[3]:
        told = (turn if doubts[3] else 0.0, saturation if doubts[2] else 1.0, 1.0)
        image = apply_color_shift(image[None], *(torch.tensor(one) for one in told))[0]
    return image


def blurred(image: Float[Tensor, "3 h w"], sigma: float) -> Float[Tensor, "3 h w"]:
    """A Gaussian over five pixels."""
    places = torch.arange(_BLUR) - _BLUR // 2
    row = torch.exp(-(places**2) / (2 * sigma**2))
    row = row / row.sum()
    kernel = torch.outer(row, row).repeat(3, 1, 1, 1)
    padded = F.pad(image[None], [_BLUR // 2] * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=3)[0]


def as_it_is(both: UInt8[Tensor, "4 h w"], rng: np.random.Generator) -> UInt8[Tensor, "4 h w"]:
    """A test picture and its mask, which the device resizes."""
    return both
