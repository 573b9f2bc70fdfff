"""What a model of the transformers library is shown: asked of its own image processor.

Fields such as `include_top` or `do_flip_channel_order` act inside the processors' code, and some
processors do what no field says, so a probe picture is processed and the result is read off.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from vistill.errors import UserError, first_line
from vistill.models.backbone import Normalization

ChannelOrder = Literal["rgb", "bgr"]
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_SIDE = 16
# Crops and sizes are the data's. SigLIP2's processor cuts patches, here of one pixel.
_WITHOUT_GEOMETRY = {"do_resize": False, "do_center_crop": False, "do_pad": False}
_IN_PATCHES = {"patch_size": 1, "max_num_patches": _SIDE**2}
_SHAPES = ((320, 480), (500, 400))
_TOLERANCE = 1e-4


class Shown(NamedTuple):
    """What a processor makes of a picture.

    Attributes:
        normalization: of red, green and blue.
        channels: the order in which the model sees them.
        size: height and width of what the model sees, where all pictures get the same.
    """

    normalization: Normalization
    channels: ChannelOrder
    size: tuple[int, int] | None


def shown_by_processor(source: str, name: str, num_channels: int = 3) -> Shown | None:
    """What the image processor of a folder, or of a name on the hub, does; None: it has none.

    Args:
        source: the folder, or the name.
        name: for messages.
        num_channels: of the pictures that the model takes, 3 or 1.

    Raises:
        UserError: transformers cannot read the processor, or it does to pixels what vistill cannot.
    """
    file = next((file for file in PROCESSOR_FILES if _is_there(source, file)), None)
    if file is None:
        return None
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"hf/{name}: transformers makes no image processor of its {file}: {first_line(error)}; "
            "mend that file, or remove it to normalise as is usual in the family"
        ) from error
    return shown_by(processor, f"hf/{name}: its {type(processor).__name__}", num_channels)


def shown_by(processor: Any, who: str, num_channels: int = 3) -> Shown:
    """The same of a processor at hand; `who` opens the messages.

    Raises:
        UserError: it does more than to shift, scale and reorder channels.
    """
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (_SIDE, _SIDE, num_channels), dtype=np.uint8)
    patches = _IN_PATCHES if hasattr(processor, "max_num_patches") else {}
    try:
        seen = _processed(processor, picture, **_WITHOUT_GEOMETRY, **patches)
    except Exception as error:
        raise UserError(f"{who} fails on a picture: {first_line(error)}") from error
    if seen.shape == (_SIDE**2, num_channels):
        seen = seen.T.reshape(num_channels, _SIDE, _SIDE)
    if seen.shape != (num_channels, _SIDE, _SIDE):
        raise UserError(
            f"{who} makes {'x'.join(map(str, seen.shape))} of a picture of {num_channels}x{_SIDE}x"
            f"{_SIDE}, and vistill shows pictures as they are"
        )
    unit = picture.transpose(2, 0, 1) / 255
    orders: tuple[ChannelOrder, ...] = ("rgb", "bgr")
    for channels in orders:
        colours = seen if channels == "rgb" else seen[::-1]
        for statistics in (_written(processor, channels), _fitted(unit, colours)):
            if statistics.shape[1] == num_channels and _agree(statistics, unit, colours):
                mean, std = (tuple(row.tolist()) * (3 // num_channels) for row in statistics)
                return Shown(Normalization(mean, std), channels, _size(processor, num_channels))
    raise UserError(
        f"{who} does more to colours than to shift, scale and reorder them, which vistill cannot do"
    )


def _is_there(source: str, file: str) -> bool:
    from transformers.utils.hub import cached_file

    try:
        return cached_file(source, file) is not None
    except OSError:
        return False


def _processed(processor: Any, picture: np.ndarray, **options: Any) -> np.ndarray:
    """`[C, H, W]`, or patches `[N, D]`."""
    from PIL import Image

    image = Image.fromarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
    seen = np.asarray(processor(image, return_tensors="np", **options)["pixel_values"])
    return seen.reshape(seen.shape[-3:] if seen.ndim > 3 else seen.shape[1:]).astype(np.float64)


def _written(processor: Any, channels: ChannelOrder) -> np.ndarray:
    """Its fields, mean over std, in the order of colours; they are tidier than measured numbers."""
    fields = (getattr(processor, "image_mean", None), getattr(processor, "image_std", None))
    if not all(isinstance(field, list | tuple) and len(field) == 3 for field in fields):
        return np.zeros((2, 0))
    return np.array(fields, dtype=np.float64)[:, :: 1 if channels == "rgb" else -1]


def _fitted(unit: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Mean over std with which `unit` pixels become what was seen of them."""
    lines = [np.polyfit(u.ravel(), c.ravel(), 1) for u, c in zip(unit, colours, strict=True)]
    slopes, starts = np.array(lines).T
    slopes = np.where(slopes == 0, np.inf, slopes)
    found = np.stack([-starts / slopes, 1 / slopes])
    return np.array([[0.0 if abs(v) < 1e-6 else float(f"{v:.6g}") for v in row] for row in found])


def _agree(statistics: np.ndarray, unit: np.ndarray, colours: np.ndarray) -> bool:
    mean, std = statistics[:, :, None, None]
    if not (std > 0).all():
        return False
    return bool(np.abs((unit - mean) / std - colours).max() < _TOLERANCE * np.abs(colours).max())


def _size(processor: Any, num_channels: int) -> tuple[int, int] | None:
    try:
        shapes = {
            _processed(processor, np.zeros((*shape, num_channels), dtype=np.uint8)).shape
            for shape in _SHAPES
        }
    except Exception:  # too small or too long for it: no size that all pictures get
        return None
    (first, *others) = shapes
    fixed = len(first) == 3 and not others
    return (first[1], first[2]) if fixed else None
