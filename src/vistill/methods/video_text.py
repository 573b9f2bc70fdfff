"""Draws and bookkeeping of UMT's losses of text, over one rank or several (spec umt 10)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.config.umt import PairSection
from vistill.losses.video_text import (
    IGNORED,
    Corrupted,
    Words,
    any_negatives,
    contrast,
    hard_negatives,
    hide_words,
    matching,
    similarity,
    word_loss,
)
from vistill.methods.ranks import Ranks
from vistill.models.text.video_text import VideoText
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.semantic import exponential

_MASKED, _REPLACED = 0.8, 0.5


class Pairs(NamedTuple):
    """The rows of this rank, and what the batch of all ranks is like.

    Attributes:
        tokens: of its clips.
        states: of its sentences.
        mask: True where these have a token.
        logits: similarity of all clips (rows) and all sentences over the temperature.
        items: of all rows; equal for one item.
        sentences: of all rows, equal for equal words; None: whatever the words.
    """

    tokens: Float[Tensor, "b n d"]
    states: Float[Tensor, "b l h"]
    mask: Bool[Tensor, "b l"]
    logits: Float[Tensor, "all all"]
    items: Int[Tensor, " all"]
    sentences: Int[Tensor, " all"] | None


def matching_loss(
    joint: VideoText, batch: Batch, pairs: Pairs, config: PairSection, ranks: Ranks
) -> Float[Tensor, ""]:
    """Whether each sentence fits its clip, another clip, and another sentence the clip."""
    mine = slice(ranks.rank * len(batch), (ranks.rank + 1) * len(batch))
    logits, items, sentences = pairs.logits, pairs.items, pairs.sentences
    tokens, states, mask = pairs.tokens, pairs.states, pairs.mask
    if config.negatives_of == "batch":
        tokens, states = (ranks.gather(rows, "full") for rows in (tokens, states))
        mask, rows = ranks.gather(mask), mine
    else:
        logits, items = logits[mine, mine], items[mine]
        sentences = None if sentences is None else sentences[mine]
        rows = slice(None)
    same = items[rows, None] == items[None]
    if sentences is not None:
        same = same | (sentences[rows, None] == sentences[None])
    noise = [
        exponential(per_sample_uniform(batch.seeds, len(items), stream))
        for stream in (Stream.NEGATIVE_CLIPS, Stream.NEGATIVE_SENTENCES)
    ]
    if config.negatives == "hard":
        found = hard_negatives(logits[rows], logits.T[rows], same, *noise)
    else:
        found = any_negatives(same, *noise)
    scores = joint.match(
        torch.cat([pairs.states, pairs.states, states[found.sentences]]),
        torch.cat([pairs.mask, pairs.mask, mask[found.sentences]]),
        torch.cat([pairs.tokens, tokens[found.clips], pairs.tokens]),
    )
    count = len(batch) + 2 * found.known.sum()
    return matching(scores, found.known, ranks.gather(count[None]).sum() / ranks.size)


def pair_terms(
    joint: VideoText,
    batch: Batch,
    tokens: Float[Tensor, "b n d"],
    config: PairSection,
    ranks: Ranks,
    *,
    frames: int | None = None,
) -> dict[str, tuple[float, Tensor]]:
    """The losses of pairs of clips and sentences that weigh anything, each with its weight.

    Args:
        joint: what reads, and joins it to the student.
        batch: holds the inputs `text`, `text_mask`, `item` and `sentence`.
        tokens: of the student, behind its final norm.
        config: the switches.
        ranks: whose rows are the batch.
        frames: pool each of so many by itself; None: all tokens together.
    """
    terms: dict[str, tuple[float, Tensor]] = {}
    temperature = joint.clamp_temperature()
    if not (config.contrast_weight or config.matching_weight):
        return terms
    mask = batch.inputs["text_mask"].bool()
    states, spoken = joint.sentences(batch.inputs["text"], mask)
    logits = similarity(
        ranks.gather(joint.pooled(tokens, frames), config.gather_grad),
        ranks.gather(spoken, config.gather_grad),
        temperature,
    )
    right = config.equal_words == "right"
    items = ranks.gather(batch.inputs["sentence" if right else "item"])
    apart = config.equal_words == "apart"
    sentences = ranks.gather(batch.inputs["sentence"]) if apart else None
    if config.contrast_weight:
        terms["contrast"] = config.contrast_weight, contrast(logits, items, sentences)
    if config.matching_weight:
        pairs = Pairs(tokens, states, mask, logits.detach(), items, sentences)
        loss = matching_loss(joint, batch, pairs, config, ranks)
        terms["matching"] = config.matching_weight, loss
    return terms


def word_term(
    joint: VideoText,
    batch: Batch,
    tokens: Float[Tensor, "b n d"],
    words: Words,
    hidden: float,
    ranks: Ranks,
) -> Float[Tensor, ""]:
    """The loss of words guessed from the rest of their sentence and the clip.

    Args:
        joint, batch, tokens, ranks: as of `pair_terms`.
        words: of the vocabulary.
        hidden: share of the tokens that are asked for.
    """
    text, mask = batch.inputs["text"], batch.inputs["text_mask"].bool()
    corrupted = with_hidden_words(batch.seeds, text, words, hidden)
    read = joint.text.read(corrupted.text, mask)
    scores = joint.text.words(joint.text.fuse(read, mask, tokens))
    asked = (corrupted.labels != IGNORED).sum()
    share = ranks.gather(asked[None]).sum() / ranks.size
    return word_loss(scores, corrupted.labels, share)


def with_hidden_words(
    seeds: Int[Tensor, " b"], text: Int[Tensor, "b l"], words: Words, share: float
) -> Corrupted:
    """Sentences of which `share` of the tokens are asked for; draws by the rows' seeds."""
    length = text.shape[1]
    drawn = per_sample_uniform(seeds, 4 * length, Stream.HIDDEN_WORDS).unflatten(1, (4, length))
    return hide_words(
        text,
        words,
        selected=drawn[:, 0] < share,
        masked=drawn[:, 1] < _MASKED,
        replaced=drawn[:, 2] < _REPLACED,
        others=(drawn[:, 3] * words.size).long(),
    )
