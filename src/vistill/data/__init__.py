"""Pictures from disk to batches: sources, decoding, transforms, deterministic streams."""

from vistill.data.broken import BrokenFiles, BrokenImage
from vistill.data.decode import decode_image
from vistill.data.loading import default_workers, eval_batches
from vistill.data.opening import open_source
from vistill.data.readable import require_readable
from vistill.data.source import Decoding, Source
from vistill.data.stream import TrainStream
from vistill.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "BrokenFiles",
    "BrokenImage",
    "Decoding",
    "EvalTransform",
    "Source",
    "TrainStream",
    "TrainTransform",
    "decode_image",
    "default_workers",
    "eval_batches",
    "open_source",
    "require_readable",
]
