"""From a sample to the inputs of a backbone, in training and in tests: a picture, or clips."""

from dataclasses import dataclass, replace
from typing import Literal

from vistill.config.clip_recipes import ClipSettings
from vistill.config.finetune import FineTuneConfig
from vistill.config.samples import SamplesConfig
from vistill.data import EvalTransform, Source, TrainTransform, default_workers
from vistill.data.loader import TIMEOUT
from vistill.data.loading import Decoder, decode_picture
from vistill.data.transforms import Transform
from vistill.image_size import ImageSize

_RATIO = (3 / 4, 4 / 3)


def workers_of(config: SamplesConfig, ranks: int = 1) -> int:
    """Loader processes of each rank: as set, or by the number of cores."""
    return default_workers(ranks) if config.workers is None else config.workers


@dataclass(frozen=True)
class Inputs:
    """How samples are read and cropped.

    Attributes:
        image_size: side of the square input, or (height, width).
        clips: how clips are taken from videos; None for pictures.
        timeout: seconds that reading one sample may take.
    """

    image_size: ImageSize
    clips: ClipSettings | None = None
    timeout: float = TIMEOUT

    @property
    def views(self) -> int:
        """Views of every test sample."""
        return 1 if self.clips is None else self.clips.clips * self.clips.crops

    @property
    def at_once(self) -> int:
        """Views of a forward pass where nothing is trained and nothing else is said."""
        return 64 if self.clips is None else 8

    @property
    def middle(self) -> "Inputs":
        """The same with a single view of every test sample."""
        return self if self.clips is None else replace(self, clips=self.clips.middle)

    def training(self, options: FineTuneConfig) -> tuple[Transform, Decoder]:
        """Random crop, flip and RandAugment; erasing and mixing follow on the device.

        Raises:
            UserError: an augmentation that cannot be read.
        """
        crop = (options.crop_scale, _RATIO, options.interpolation)
        if self.clips is None:
            view = TrainTransform(self.image_size, *crop, options.flip, options.rand_augment)
            return view, decode_picture

        # PyAV is loaded by evaluations on clips only.
        from vistill.data.video.clips import ClipDecoder
        from vistill.data.video.transforms import VideoTrainTransform

        clip_view = VideoTrainTransform(
            self.image_size, "resized", *crop, options.flip, options.rand_augment, antialias=False
        )
        return clip_view, ClipDecoder(self.clips.frames, self.clips.stride, self.clips.sampling)

    def testing(
        self, interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    ) -> tuple[Transform, Decoder]:
        """The centre of a picture, or all views of a video; only pictures mind `interpolation`."""
        if self.clips is None:
            return EvalTransform(self.image_size, interpolation=interpolation), decode_picture

        from vistill.data.video.clips import ClipDecoder
        from vistill.data.video.transforms import VideoTestTransform

        frames, stride, sampling, clips, crops = self.clips
        decoder = ClipDecoder(frames, stride, sampling, views=clips)
        return VideoTestTransform(self.image_size, clips, crops), decoder

    def require(self, source: Source) -> None:
        """Look at a few videos, of clips.

        Raises:
            UserError: none of them can be read, or all are shorter than a clip.
        """
        if self.clips is not None:
            from vistill.data.video.clips import ClipDecoder, require_clips

            require_clips(source, ClipDecoder(*self.clips[:3]), section="")
