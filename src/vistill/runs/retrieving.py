"""Retrieval of pictures or clips by their captions and of captions by these, and the choice of the
right one of several captions: zero-shot."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.runs.looking import looked_at, opened
from vistill.runs.measured import Named, with_frames
from vistill.runs.results import Table

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.evaluation.retrieval import ChoiceScore, Match, RetrievalScore
    from vistill.models.joint import JointModel
    from vistill.training.distributed import World

_SENTENCES = 64
"""Read in one pass."""


def retrieve(
    model: "Named[JointModel]", data: str, config: EvaluateConfig, world: "World"
) -> Table:
    """The evaluator `retrieval`: recall and ranks of both directions.

    Args:
        model: with both towers.
        data: pictures or clips with captions.
        config: `frames` are those of a clip, of which a model of pictures looks at each by itself;
            None for pictures.
        world: the ranks, which share the pictures; rank 0 compares.

    Raises:
        UserError: there are no captions, or too few pictures can be read.
    """
    import torch

    from vistill.evaluation.retrieval import owners_of, retrieval_scores
    from vistill.losses.video_text import similarity

    own, config = model.model, with_frames(config, model.model)
    if "rerank" in config.retrieval.model_fields_set and not own.matches:
        raise UserError(
            f"retrieval.rerank={config.retrieval.rerank} is for a matching head, which "
            f"{model.given} has not; leave it out"
        )
    source = opened(config, data)
    samples, captions = described(source, data, joined=config.retrieval.captions == "joined")
    seen = _see(config, own, source, samples, world)
    kept = [several for several, there in zip(captions, seen.there, strict=True) if there]
    if len(kept) < 2:
        noun = source.media.noun
        raise UserError(f"'{data}' has {len(kept)} {noun} that can be read; retrieval needs two")
    texts, owners = owners_of(kept)

    def compared() -> "list[RetrievalScore]":
        with torch.no_grad():
            sims = similarity(seen.features, _read(own, texts))
            match = _matcher(own, seen.tokens, texts) if own.matches else None
            return retrieval_scores(sims, owners, match, config.retrieval.rerank)

    return {
        "config": config.model_dump(mode="json"),
        "retrieval": tuple(world.once(compared)),
        "broken": tuple(seen.broken),
    }


def choose(model: "Named[JointModel]", data: str, config: EvaluateConfig, world: "World") -> Table:
    """The evaluator `multiple-choice`: how often the right one of several captions is chosen.

    Args:
        model, config, world: as of `retrieve`.
        data: pictures or clips with several captions, of which `answer` (or `label`) is the number
            of the right one, counted from 0.

    Raises:
        UserError: there are no answers, or one of them is no caption's number.
    """
    import numpy as np
    import torch

    from vistill.evaluation.retrieval import choice_score
    from vistill.losses.video_text import similarity

    own, config = model.model, with_frames(config, model.model)
    source = opened(config, data)
    asked = [_answer(source, i) for i in range(len(source))]
    samples = np.array([i for i, answer in enumerate(asked) if answer is not None], np.int64)
    if not len(samples):
        raise UserError(
            f"multiple-choice needs several captions and an answer, and '{data}' tells none: give "
            "a list with columns caption and answer beside the paths"
        )
    seen = _see(config, own, source, samples, world)

    def chosen() -> "list[ChoiceScore]":
        similar, matched, answers = [], [], []
        for place, i in enumerate(samples[seen.there].tolist()):
            assert source.captions is not None
            texts = list(source.captions[i])
            answers.append(asked[i] or 0)
            similar.append(similarity(seen.features[place : place + 1], _read(own, texts))[0])
            if own.matches:
                match = _matcher(own, seen.tokens[place : place + 1], texts, both=True)
                matched.append(match(0, np.arange(len(texts))))
        found = [choice_score("embeddings", similar, None, answers, own.temperature)]
        if own.matches:
            found.append(choice_score("matched", similar, matched, answers, own.temperature))
        return found

    with torch.no_grad():
        return {
            "config": config.model_dump(mode="json"),
            "choices": tuple(world.once(chosen)),
            "broken": tuple(seen.broken),
        }


def _answer(source: "Source", sample: int) -> int | None:
    """Number of the right caption of a sample; None where it has no answer."""
    if source.captions is None or source.labels is None or source.classes is None:
        return None
    label, count = int(source.labels[sample]), len(source.captions[sample])
    if label < 0 or count < 2:
        return None
    told = source.classes[label]
    if not told.isdecimal() or int(told) >= count:
        raise UserError(
            f"{source.sample_name(sample)} has {count} captions, and its answer is {told!r}; it is "
            "the number of the right one, counted from 0"
        )
    return int(told)


class _Seen(NamedTuple):
    """What a model makes of samples that can be read.

    Attributes:
        features: `[n, T, E]`, of every frame.
        tokens: `[n, N * D]` that a matching head looks at; without one nothing.
        there: which of the samples asked for these are.
        broken: names of the others, and why.
    """

    features: "Tensor"
    tokens: "Tensor"
    there: "np.ndarray"
    broken: list[str]


def _see(
    config: EvaluateConfig,
    model: "JointModel",
    source: "Source",
    samples: "np.ndarray",
    world: "World",
) -> _Seen:
    import numpy as np
    import torch

    def compute(batch: "Batch") -> "Tensor":
        images = model.normalization(batch.unit_pixels())
        if not model.matches:
            return model.see_frames(images).flatten(1)
        return torch.cat([part.flatten(1) for part in model.see_tokens(images)], dim=1)

    found = looked_at(config, model, compute, source, samples, world)
    width = found.features.shape[1]
    if model.matches:
        width = (config.frames or 1) * model.width
    features = found.features[:, :width].unflatten(1, (-1, model.width))
    broken = [f"{name} ({why})" for name, why in found.broken.items()]
    there = np.isin(samples, found.ids.numpy())
    return _Seen(features, found.features[:, width:], there, broken)


def _read(model: "JointModel", texts: list[str]) -> "Tensor":
    import torch

    return torch.cat([model.read(part).float().cpu() for part in _parts(texts)])


def _matcher(
    model: "JointModel", tokens: "Tensor", texts: list[str], *, both: bool = False
) -> "Match":
    """Asks the matching head about one of the media and some of the texts; for the logits that they
    belong together, or `both` logits."""
    import torch

    from vistill.models.joint import Sentences

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
        logits = torch.cat(found).float().cpu()
        return logits if both else logits[:, 1]

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

    from vistill.data.captioned import by_file

    found = by_file(source, source.captions or ())
    if not found:
        raise UserError(
            f"retrieval needs captions, and '{data}' tells none: give a list with a column caption "
            "beside the paths"
        )
    samples = np.array([i for i, _ in found.values()])
    captions: list[Sequence[str]] = [own for _, own in found.values()]
    return samples, [[" ".join(own)] for own in captions] if joined else captions


def _parts(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _SENTENCES):
        yield texts[start : start + _SENTENCES]
