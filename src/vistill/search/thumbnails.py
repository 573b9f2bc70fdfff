"""Small pictures of what was found, as JPEG."""

import io

import numpy as np
import torch
from PIL import Image

from vistill.data.broken import BrokenImage
from vistill.data.decode import EndMissing, decode_image
from vistill.data.folder import read_file
from vistill.data.source import Stretch

SIDE = 320
_FRAMES = 3


def thumbnail(
    place: str | bytes, *, clip: bool, span: Stretch | None, value_range: tuple[float, float] | None
) -> bytes | None:
    """A picture, or three frames of a clip side by side, at most 320 pixels wide or high.

    Args:
        place: path or bytes.
        clip: whether it is one.
        span: the part of it.
        value_range: see `decode_image`.

    Returns:
        None where it cannot be read.
    """
    try:
        if clip:
            return _strip(place, span)
        data = read_file(place) if isinstance(place, str) else place
        try:
            pixels = decode_image(data, value_range)
        except EndMissing as error:
            pixels = error.pixels
    except BrokenImage:
        return None
    return _jpeg(pixels.permute(1, 2, 0).numpy())


def _strip(place: str | bytes, span: Stretch | None) -> bytes:
    from vistill.data.video.clips import part_of  # PyAV is loaded for clips only
    from vistill.data.video.frames import open_video

    with open_video(place) as video:
        part = part_of(video, span)
        middles = (np.arange(_FRAMES) + 0.5) * len(part) / _FRAMES
        frames = video.read(part.start + middles.astype(np.int64))
    return _jpeg(torch.cat(frames.permute(1, 2, 3, 0).unbind(0), dim=1).numpy(), wide=_FRAMES)


def _jpeg(pixels: np.ndarray, wide: int = 1) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((SIDE * (2 if wide > 1 else 1), SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()
