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
    from vistill.evaluation.retrieval import Match, RetrievalScore
    from vistill.models.joint import JointModel

_SENTENCES = 64
"""Read in one pass."""


def retrieve(
    config: EvaluateConfig, model: "JointModel", data: str
) -> "tuple[list[RetrievalScore], list[str]]":
    """Recall and ranks of both directions; a line on what was left out.

    Args:
        config: `frames` are those of a clip, of which a model of pictures looks at each by itself;
            None for pictures.
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
    if config.frames is not None:
        sampling, stride = config.sampling or "segments", config.stride
        clips = clip_settings("", frames=config.frames, stride=stride, sampling=sampling).middle
    media: Literal["image", "video"] = "image" if clips is None else "video"
    source = open_samples(config, data, media)
    samples, captions = described(source, data, joined=config.retrieval.captions == "joined")
    inputs = Inputs(model.image_size, clips, config.timeout)
    inputs.require(source)
    device = device_kind(config.device, "device")

    def compute(batch: "Batch") -> "Tensor":
        images = model.normalization(batch.unit_pixels())
        if not model.matches:
            return model.see_frames(images).flatten(1)
        return torch.cat([part.flatten(1) for part in model.see_tokens(images)], dim=1)

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
    seen = (clips.frames if clips is not None else 1) * model.width
    features, tokens = found.features, found.features[:, seen:]
    if model.matches:
        features = features[:, :seen]
    features = features.unflatten(1, (-1, model.width))
    match = _matcher(model, tokens, texts) if model.matches else None
    broken = [f"{name} ({why})" for name, why in found.broken.items()]
    sims = similarity(features, read)
    with torch.no_grad():
        return retrieval_scores(sims, owners, match, config.retrieval.rerank), broken


def _matcher(model: "JointModel", tokens: "Tensor", texts: list[str]) -> "Match":
    """Asks the matching head about one of the media and some of the texts."""
    import torch

    from vistill.models.joint import Sentences

    with torch.no_grad():
        read = [model.read_states(part) for part in _parts(texts)]
    states, mask = (torch.cat([getattr(one, name) for one in read]) for name in ("states", "mask"))
    embeddings = torch.cat([one.embeddings for one in read])

    def match(one: int, wanted: "np.ndarray") -> "Tensor":
        own = tokens[one].to(states.device).unflatten(0, (-1, model.token_width))
        looked = model.look(own[None])
        found = []
        for start in range(0, len(wanted), _SENTENCES):
            some = torch.from_numpy(wanted[start : start + _SENTENCES]).to(states.device)
            found.append(model.match(looked, Sentences(embeddings[some], states[some], mask[some])))
        return torch.cat(found).float().cpu()

    return match


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
