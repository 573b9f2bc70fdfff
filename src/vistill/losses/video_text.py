"""What video (or picture) and text say of each other: contrast, matching, hidden words (UMT,
section 3.2; spec umt 10). Everything random is handed in."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100
"""Label of a token that no word is asked of."""


def similarity(
    vision: Float[Tensor, "n t e"], text: Float[Tensor, "m e"], temperature: Tensor | float = 1.0
) -> Float[Tensor, "n m"]:
    """Mean cosine of a sentence and the frames of a clip, over the temperature."""
    frames = F.normalize(vision, dim=-1).mean(dim=1)
    return frames @ F.normalize(text, dim=-1).T / temperature


def contrast(
    logits: Float[Tensor, "n n"],
    items: Int[Tensor, " n"],
    sentences: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy between pairs and all others of the batch, mean of both directions.

    Args:
        logits: similarity of clips (rows) and sentences over the temperature.
        items: equal for rows of one item, which are all right for each other.
        sentences: equal for rows of equal words. Rows of other items with the same words are
            neither right nor wrong, and are left out; None: they are wrong.
    """
    same = items[:, None] == items[None]
    if sentences is not None:
        unsure = (sentences[:, None] == sentences[None]) & ~same
        logits = logits.masked_fill(unsure, float("-inf"))
    target = same / same.sum(dim=1, keepdim=True)

    def entropy(rows: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
        found = rows.float().log_softmax(dim=1).masked_fill(~same, 0.0)
        return -(target * found).sum(dim=1).mean()

    return (entropy(logits) + entropy(logits.T)) / 2


class Negatives(NamedTuple):
    """For every row a row that does not fit: which clip to a sentence, which sentence to a clip.

    Attributes:
        clips, sentences: int64 `[B]`, rows.
        known: bool `[B]`, whether there is any; the whole batch may be one item.
    """

    clips: Int[Tensor, " b"]
    sentences: Int[Tensor, " b"]
    known: Bool[Tensor, " b"]


def negative_weights(
    logits: Float[Tensor, "b b"], same: Bool[Tensor, "b b"]
) -> Float[Tensor, "b b"]:
    """By how much every column is drawn as a negative of a row: softmax, zero for the same item.

    Where all that is left has vanished, the others are alike.
    """
    weights = logits.float().softmax(dim=1).masked_fill(same, 0.0)
    weights = torch.where(torch.isfinite(weights), weights, 1e-2)
    empty = weights.sum(dim=1, keepdim=True) == 0
    return torch.where(empty, (~same).float(), weights)


def hard_negatives(
    clip_logits: Float[Tensor, "b n"],
    sentence_logits: Float[Tensor, "b n"],
    same: Bool[Tensor, "b n"],
    clip_noise: Float[Tensor, "b n"],
    sentence_noise: Float[Tensor, "b n"],
) -> Negatives:
    """Likely mistakes, drawn by their similarity: one clip for each sentence, and the reverse.

    Args:
        clip_logits: similarity of B clips and N sentences over the temperature.
        sentence_logits: of their B sentences and N clips.
        same: where the two are no mistake.
        clip_noise, sentence_noise: draws of Exp(1), by row of what the negative is for.
    """
    clips = negative_weights(sentence_logits, same) / clip_noise
    sentences = negative_weights(clip_logits, same) / sentence_noise
    return Negatives(clips.argmax(dim=1), sentences.argmax(dim=1), (~same).any(dim=1))


def any_negatives(
    same: Bool[Tensor, "b n"],
    clip_noise: Float[Tensor, "b n"],
    sentence_noise: Float[Tensor, "b n"],
) -> Negatives:
    """Any others, alike: the largest of the draws among them."""

    def drawn(noise: Tensor) -> Tensor:
        return (noise - 1e4 * same).argmax(dim=1)

    return Negatives(drawn(clip_noise), drawn(sentence_noise), (~same).any(dim=1))


def matching(
    logits: Float[Tensor, "b3 2"],
    known: Bool[Tensor, " b"],
    count: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of what fits (first third: 1) and of negatives (0); of rows without negatives
    the pair alone counts.

    Args:
        logits: of B pairs, B pairs with another clip, and B with another sentence.
        known: whether a row has negatives.
        count: what the sum is divided by; None: how many count.
    """
    labels = torch.cat([torch.ones_like(known), torch.zeros_like(known).repeat(2)]).long()
    each = F.cross_entropy(logits.float(), labels, reduction="none")
    counted = torch.cat([torch.ones_like(known), known, known]).to(each.dtype)
    return (each * counted).sum() / (counted.sum() if count is None else count)


class Words(NamedTuple):
    """Special tokens of a vocabulary of `size`."""

    size: int
    pad: int
    cls: int
    mask: int


class Corrupted(NamedTuple):
    """Sentences with words hidden, and which words these are (`IGNORED` elsewhere)."""

    text: Int[Tensor, "b l"]
    labels: Int[Tensor, "b l"]


def hide_words(
    text: Int[Tensor, "b l"],
    words: Words,
    *,
    selected: Bool[Tensor, "b l"],
    masked: Bool[Tensor, "b l"],
    replaced: Bool[Tensor, "b l"],
    others: Int[Tensor, "b l"],
) -> Corrupted:
    """BERT's corruption (spec umt 10): padding and the class token are never asked for.

    Args:
        text: token ids.
        words: of the vocabulary.
        selected: which are asked for.
        masked: of these, which become the mask; of the rest those `replaced` become `others`.
        replaced, others: see `masked`.
    """
    asked = selected & (text != words.pad) & (text != words.cls)
    labels = torch.where(asked, text, IGNORED)
    shown = torch.where(asked & masked, words.mask, text)
    return Corrupted(torch.where(asked & ~masked & replaced, others, shown), labels)


def word_loss(
    scores: Float[Tensor, "b l w"],
    labels: Int[Tensor, "b l"],
    count: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the hidden words; 0 where none is.

    Args:
        scores: of every word of the vocabulary.
        labels: the words, `IGNORED` where none is hidden.
        count: what the sum is divided by; None: how many are hidden.
    """
    each = F.cross_entropy(
        scores.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    hidden = (labels != IGNORED).sum().to(each.dtype) if count is None else count
    return each / hidden.clamp(min=1e-6)
