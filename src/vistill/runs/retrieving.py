"""Retrieval of pictures or clips by their captions, and of captions by these: zero-shot."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from vistill.config.clip_recipes import clip_settings
from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.samples import open_samples

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.evaluation.retrieval import RetrievalScore
    from vistill.models.joint import JointModel

_SENTENCES = 64
"""Read in one pass."""


def retrieve(
    config: EvaluateConfig, model: "JointModel", data: str
) -> "tuple[list[RetrievalScore], list[str]]":
    """Recall and ranks of both directions; a line on what was left out.

    Args:
        config: `frames` lets a model of pictures look at clips, each frame by itself.
        model: with both towers.
        data: pictures or clips with captions.

    Raises:
        UserError: there are no captions, or too few pictures can be read.
    """
    import torch

    from vistill.data import default_workers
    from vistill.evaluation.features import collect
    from vistill.evaluation.inputs import Inputs
    from vistill.evaluation.retrieval import owners_of, retrieval_scores, similarity
    from vistill.training.distributed import device_kind

    clips = None
    if model.num_frames > 1 or config.frames is not None:
        frames, sampling = config.frames or model.num_frames, config.sampling or "segments"
        clips = clip_settings("", frames=frames, stride=config.stride, sampling=sampling).middle
    media: Literal["image", "video"] = "image" if clips is None else "video"
    source = open_samples(config, data, media)
    samples, captions = described(source, data, joined=config.retrieval.captions == "joined")
    inputs = Inputs(model.image_size, clips, config.timeout)
    inputs.require(source)
    device = device_kind(config.device, "device")

    def compute(batch: "Batch") -> "Tensor":
        return model.see_frames(model.normalization(batch.unit_pixels())).flatten(1)

    noun = source.media.noun
    found = collect(
        model,
        compute,
        source,
        samples,
        inputs=inputs,
        batch_size=config.batch_size or inputs.at_once,
        workers=default_workers() if config.workers is None else config.workers,
        device=device,
        progress=f"embedding {len(samples)} {noun}s",
    )
    there = {int(sample) for sample in found.ids}
    kept = [several for i, several in zip(samples, captions, strict=True) if int(i) in there]
    if len(kept) < 2:
        raise UserError(f"'{data}' has {len(kept)} {noun} that can be read; retrieval needs two")
    texts, owners = owners_of(kept)
    model.to(device)
    with torch.no_grad():
        read = torch.cat([model.read(part).float().cpu() for part in _parts(texts)])
    features = found.features.unflatten(1, (-1, model.width))
    broken = [f"{name} ({why})" for name, why in found.broken.items()]
    return retrieval_scores(similarity(features, read), owners, k=config.retrieval.rerank), broken


def described(
    source: "Source", data: str, *, joined: bool
) -> "tuple[np.ndarray, list[Sequence[str]]]":
    """Positions of the samples with captions, each file once, and the captions of each.

    A file that is listed several times, once for each of its captions, is one.

    Raises:
        UserError: there are no captions.
    """
    import numpy as np

    told = source.captions
    by_name: dict[str, tuple[int, list[str]]] = {}
    if told is not None:
        for i in range(len(source)):
            own = [text for text in told[i] if text.strip()]
            if own:
                by_name.setdefault(source.sample_name(i), (i, []))[1].extend(own)
    if not by_name:
        raise UserError(
            f"retrieval needs captions, and '{data}' tells none: give a list with a column caption "
            "beside the paths"
        )
    samples = np.array([i for i, _ in by_name.values()])
    captions: list[Sequence[str]] = [own for _, own in by_name.values()]
    return samples, [[" ".join(own)] for own in captions] if joined else captions


def _parts(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _SENTENCES):
        yield texts[start : start + _SENTENCES]
