"""How the samples of a run are read and cropped, by its configuration: pictures or clips."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from vistill.config.data import DataConfig
from vistill.config.section import MethodSection
from vistill.data import (
    Decoding,
    EvalTransform,
    Source,
    TrainTransform,
    open_source,
    require_readable,
)
from vistill.data.inputs import Inputs, Items
from vistill.data.loading import Decoder, decode_picture
from vistill.data.transforms import Transform

if TYPE_CHECKING:
    from vistill.data.video.device import DeviceCrop


@dataclass(frozen=True)
class Reading:
    """What `TrainStream` and `eval_batches` are given.

    Attributes:
        source: of all samples.
        train, test: from what is decoded to pixels.
        decode_train, decode_test: what is decoded of a sample.
        repeats: copies of a sample in a training batch.
        inputs: makes what batches hold beside pixels.
    """

    source: Source
    train: Transform
    test: Transform
    decode_train: Decoder = decode_picture
    decode_test: Decoder = decode_picture
    repeats: int = 1
    inputs: Inputs | None = None


def open_samples(data: DataConfig, method: MethodSection | None = None) -> Reading:
    """Open the pictures or clips at `data.train`, before any of them is decoded.

    Args:
        data: where they are and how they are cropped.
        method: section of the method, which tells what it reads beside pixels.

    Raises:
        UserError: there are none, see `vistill.data.open_source`.
    """
    reading = _open(data)
    if method is not None and {"item", "source"} & set(method.reads_inputs):
        return replace(reading, inputs=Items())
    return reading


def _open(data: DataConfig) -> Reading:
    assert data.train is not None
    if data.frames is None:
        crop = TrainTransform(
            data.image_size,
            data.crop_scale,
            data.crop_ratio,
            data.interpolation,
            data.flip,
        )
        decoding = Decoding(data.value_range, data.allow_truncated)
        source = open_source(data.train, root=data.root, decoding=decoding)
        return Reading(source, crop, EvalTransform(data.image_size), repeats=data.repeats)

    # PyAV is loaded by runs on clips only.
    from vistill.data.video.clips import ClipDecoder
    from vistill.data.video.transforms import VideoTestTransform, VideoTrainTransform

    return Reading(
        source=open_source(data.train, "video", root=data.root),
        train=VideoTrainTransform(
            data.image_size,
            data.crop,
            data.crop_scale,
            data.crop_ratio,
            data.interpolation,
            data.flip,
        ),
        test=VideoTestTransform(data.image_size),
        decode_train=ClipDecoder(data.frames, data.stride, data.sampling),
        decode_test=ClipDecoder(data.frames, data.stride, data.sampling, views=1),
        repeats=data.repeats,
    )


def require_samples(reading: Reading) -> list[str]:
    """Decode a few samples from all over the source.

    Returns:
        Sentences on how their values are read, where that may surprise.

    Raises:
        UserError: none of them can be read, or all videos are shorter than a clip.
    """
    if reading.decode_train is decode_picture:
        return require_readable(reading.source)
    from vistill.data.video.clips import ClipDecoder, require_clips

    assert isinstance(reading.decode_train, ClipDecoder)
    require_clips(reading.source, reading.decode_train)
    return []


def on_device(reading: Reading, device: torch.device) -> "DeviceCrop":
    """The training crops of clips, cut on `device` instead of in loader processes."""
    from vistill.data.video.device import DeviceCrop
    from vistill.data.video.transforms import VideoTrainTransform

    assert isinstance(reading.train, VideoTrainTransform)
    return DeviceCrop(reading.train, device)
