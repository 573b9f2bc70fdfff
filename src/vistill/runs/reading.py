"""How the samples of a run are read and cropped, by its configuration: pictures or clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Int

from vistill.batch import Batch
from vistill.config.data import DataConfig
from vistill.config.section import MethodSection
from vistill.data import (
    Decoding,
    EvalTransform,
    Source,
    TrainTransform,
    eval_batches,
    open_source,
    require_readable,
)
from vistill.data.cache import TeacherCache
from vistill.data.caption_inputs import CaptionInputs, QuestionInputs
from vistill.data.captioned import AskedSource, CaptionedSource
from vistill.data.inputs import Inputs, Items, Joined
from vistill.data.loading import Decoder, decode_picture
from vistill.data.mixture import MixedSource, Part, eval_mixture
from vistill.data.transforms import Transform
from vistill.errors import UserError
from vistill.random import split_held_out
from vistill.runs.text import answers_tokenizer, asks, joins_captions, reads_text, tokenizer_of
from vistill.tokenizing import Tokenizer

if TYPE_CHECKING:
    from vistill.data.video.device import DeviceCrop

Texts = type[CaptionedSource] | type[AskedSource] | None
"""Which samples of a source have the texts that a method reads; None: it reads none."""


@dataclass(frozen=True)
class Reading:
    """What `TrainStream` and `eval_batches` are given.

    Attributes:
        source: of all samples.
        train, test: from what is decoded to pixels; training crops may be cut on the device.
        decode_train, decode_test: what is decoded of a sample.
        repeats: copies of a sample in a training batch.
        inputs: makes what batches hold beside pixels.
        parts: of a mixture, whose samples they read instead.
        tokenizer: cuts captions, where the method reads them.
    """

    source: Source
    train: "Transform | DeviceCrop"
    test: Transform
    decode_train: Decoder = decode_picture
    decode_test: Decoder = decode_picture
    repeats: int = 1
    inputs: Inputs | None = None
    parts: tuple[Part, ...] = ()
    tokenizer: Tokenizer | None = None

    def told_of_text(self) -> dict[str, Any]:
        """How text is read, as an export tells it."""
        assert self.tokenizer is not None
        told = {"tokenizer": self.tokenizer.json, "length": self.tokenizer.length}
        if isinstance(self.inputs, QuestionInputs):
            assert isinstance(self.source, AskedSource)
            told |= {"answers": self.source.answers, "answer_length": self.inputs.answer.length}
        return told

    def split(
        self, held_out: float, seed: int
    ) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held"]]:
        """Training and held-out samples, of a mixture those of every source."""
        if not self.parts:
            return split_held_out(len(self.source), held_out, seed)
        splits = [
            [part.first + own for own in split_held_out(len(part.source), held_out, seed)]
            for part in self.parts
        ]
        train, held = zip(*splits, strict=True)
        return np.concatenate(train), np.concatenate(held)

    def eval_batches(
        self,
        indices: Int[np.ndarray, " n"],
        *,
        train_view: bool = False,
        caches: Sequence[TeacherCache] = (),
        **options: Any,
    ) -> Iterator[Batch]:
        """Every sample once, cropped as in tests or in training; see `eval_batches`. Of `caches`
        there is one, or one for each source of a mixture."""
        if self.parts:
            return eval_mixture(
                self.parts,
                indices,
                train_view=train_view,
                inputs=self.inputs,
                caches=caches,
                **options,
            )
        return eval_batches(
            self.source,
            indices,
            self.train if train_view else self.test,
            decode=self.decode_train if train_view else self.decode_test,
            inputs=self.inputs,
            cache=next(iter(caches), None),
            **options,
        )

    def alone(self, part: Part) -> "Reading":
        """A source of the mixture as if there were no other."""
        how = part.train, part.test, part.decode_train, part.decode_test
        return Reading(part.source, *how, self.repeats)


def open_samples(data: DataConfig, method: MethodSection | None = None) -> Reading:
    """Open the pictures or clips at `data.train`, before any of them is decoded.

    Args:
        data: where they are and how they are cropped.
        method: section of the method, which tells what it reads beside pixels.

    Raises:
        UserError: there are none, see `vistill.data.open_source`.
    """
    if reads_text(method):
        tokenizer = tokenizer_of(method)
        if asks(method):
            answers = answers_tokenizer(method, tokenizer)
            reading = _open(data, texts=AskedSource)
            return replace(reading, inputs=QuestionInputs(tokenizer, answers), tokenizer=tokenizer)
        inputs: Inputs = CaptionInputs(tokenizer, joined=joins_captions(method))
        if data.sources is not None:
            reading = _open_mixture(data, texts=CaptionedSource)
        else:
            reading, inputs = _open(data, texts=CaptionedSource), Joined(Items(), inputs)
        return replace(reading, inputs=inputs, tokenizer=tokenizer)
    if data.sources is not None:
        return _open_mixture(data)
    reading = _open(data)
    if method is not None and {"item", "source"} & set(method.reads_inputs):
        return replace(reading, inputs=Items())
    return reading


def _open_mixture(data: DataConfig, texts: Texts = None) -> Reading:
    readings, passes = {}, {}
    for name, source in (data.sources or {}).items():
        try:
            readings[name] = _open(data.of_source(name), texts)
        except UserError as error:
            raise UserError(f"data.sources.{name}: {error}") from error
        passes[name] = source.weight
    mixed = MixedSource({name: one.source for name, one in readings.items()})
    cuts = {name: cast(Transform, one.train) for name, one in readings.items()}
    parts = tuple(
        Part(name, mixed, cuts[name], one.test, one.decode_train, one.decode_test, passes[name])
        for name, one in readings.items()
    )
    first = parts[0]
    return Reading(mixed, first.train, first.test, repeats=data.repeats, parts=parts)


def _open(data: DataConfig, texts: Texts = None) -> Reading:
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
        source = source if texts is None else texts(source)
        return Reading(source, crop, EvalTransform(data.image_size), repeats=data.repeats)

    # PyAV is loaded by runs on clips only.
    from vistill.data.video.clips import ClipDecoder
    from vistill.data.video.transforms import VideoTestTransform, VideoTrainTransform

    source = open_source(data.train, "video", root=data.root)
    return Reading(
        source=source if texts is None else texts(source),
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
    if not reading.parts:
        return _require(reading.source, reading.decode_train, "data.")
    notes = []
    for part in reading.parts:
        section = f"data.sources.{part.name}."
        notes += [
            f"{part.name}: {one}" for one in _require(part.source, part.decode_train, section)
        ]
    return notes


def _require(source: Source, decode: Decoder, section: str) -> list[str]:
    if decode is decode_picture:
        return require_readable(source, section)
    from vistill.data.video.clips import ClipDecoder, require_clips

    assert isinstance(decode, ClipDecoder)
    require_clips(source, decode)
    return []


def on_device(reading: Reading, device: torch.device) -> "DeviceCrop":
    """The training crops of clips, cut on `device` instead of in loader processes."""
    from vistill.data.video.device import DeviceCrop
    from vistill.data.video.transforms import VideoTrainTransform

    assert isinstance(reading.train, VideoTrainTransform)
    return DeviceCrop(reading.train, device)
