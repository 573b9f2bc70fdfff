"""Retrieval between media and captions: similarities, re-ranking by a matching head, recall and
ranks with intervals, multiple choice (spec umt 11).

Media are pictures or clips, of which each has one caption or several. A text is right for one of
the media, and a medium for all of its captions, of which the best one counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vistill.evaluation.metrics import wilson_interval

UNSCORED = -100.0
"""Of pairs that the matching head was not asked about."""
_DRAWS = 1000
_CONTRASTIVE = 0.3
"""Share of the similarity in the score of multiple choice; the rest is the matching head's."""

Match = Callable[[int, Int[np.ndarray, " k"]], Float[Tensor, " k"]]
"""Logits of the matching head that some texts belong to one medium."""


class Figure(NamedTuple):
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} – {self.high:.1f})"


@dataclass(frozen=True)
class Direction:
    """How well one kind finds the other.

    Attributes:
        r1, r5, r10: percent of the queries with a right answer among the first 1, 5, 10.
        median_rank, mean_rank: of the first right answer, counted from 1.
        queries: how many.
        candidates: among which each had to find.
    """

    r1: Figure
    r5: Figure
    r10: Figure
    median_rank: Figure
    mean_rank: Figure
    queries: int
    candidates: int


@dataclass(frozen=True)
class RetrievalScore:
    """Both directions.

    Attributes:
        ranking: by the similarity of embeddings, or by the matching head among the most similar.
        text_to_media, media_to_text: how well each finds the other.
    """

    ranking: Literal["embeddings", "reranked"]
    text_to_media: Direction
    media_to_text: Direction


def rerank(
    sims: Float[Tensor, "v c"], match: Match, k: int
) -> tuple[Float[Tensor, "v c"], Float[Tensor, "c v"]]:
    """Scores of the matching head for the `k` most similar texts of every medium, and for the `k`
    most similar media of every text; all others are `UNSCORED`.

    Every medium is asked once, about all texts that either direction wants to know of.
    """
    media, texts = sims.shape
    of_media, of_texts = torch.full_like(sims, UNSCORED), torch.full_like(sims.T, UNSCORED)
    near_texts = _among_best(sims, min(k, texts))
    near_media = _among_best(sims.T, min(k, media)).T
    for one in range(media):
        asked = (near_texts[one] | near_media[one]).nonzero()[:, 0]
        scores = match(one, asked.numpy()).to(sims)
        wanted = near_texts[one, asked]
        of_media[one, asked[wanted]] = scores[wanted]
        wanted = near_media[one, asked]
        of_texts[asked[wanted], one] = scores[wanted]
    return of_media, of_texts


def _among_best(scores: Float[Tensor, "n c"], k: int) -> Bool[Tensor, "n c"]:
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(k).indices, True)


def first_right(scores: Float[Tensor, "n c"], right: Bool[Tensor, "n c"]) -> Int[np.ndarray, " n"]:
    """Rank of the best right candidate of every query, counted from 1.

    A wrong candidate with the same score stands in front: who gives all the same score finds
    nothing.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    wrong = (scores >= best) & ~right
    return 1 + wrong.sum(dim=1).numpy()


def direction(
    ranks: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], candidates: int
) -> Direction:
    """Figures of the ranks, with intervals by bootstrap over groups of queries.

    Args:
        ranks: of the first right answers.
        groups: queries of one group are drawn together, as captions of one medium are alike.
        candidates: among which each query had to find.
    """
    named, group = np.unique(groups, return_inverse=True)
    counts = np.random.default_rng(0).multinomial(
        len(named), np.full(len(named), 1 / len(named)), size=_DRAWS
    )
    order = np.argsort(ranks, kind="stable")
    weights = counts[:, group[order]]
    weights = np.concatenate([np.ones((1, len(ranks)), weights.dtype), weights])
    ranked, total = ranks[order], weights.sum(axis=1)

    def figure(drawn: Float[np.ndarray, " d"]) -> Figure:
        low, high = np.percentile(drawn[1:], [2.5, 97.5])
        return Figure(float(drawn[0]), float(low), float(high))

    def recall(k: int) -> Figure:
        return figure(100 * weights[:, ranked <= k].sum(axis=1) / total)

    # The lower and the upper middle of the drawn ranks, as they are sorted.
    reached = weights.cumsum(axis=1)
    halves = ((total - 1) // 2, total // 2)
    middles = [ranked[(reached > half[:, None]).argmax(axis=1)] for half in halves]
    return Direction(
        recall(1),
        recall(5),
        recall(10),
        figure(np.mean(middles, axis=0)),
        figure(weights @ ranked / total),
        len(ranks),
        candidates,
    )


def retrieval_scores(
    sims: Float[Tensor, "v c"], owners: Int[Tensor, " c"], match: Match | None = None, k: int = 128
) -> list[RetrievalScore]:
    """Recall and ranks of both directions, by similarity and, with a matching head, re-ranked.

    Args:
        sims: of media and texts.
        owners: medium that each text describes; each has at least one.
        match: the matching head.
        k: how many of the most similar it looks at.
    """
    right = owners[:, None] == torch.arange(len(sims))
    media, texts = np.arange(len(sims)), owners.numpy()

    def scored(
        ranking: Literal["embeddings", "reranked"], of_media: Tensor, of_texts: Tensor
    ) -> RetrievalScore:
        return RetrievalScore(
            ranking,
            direction(first_right(of_texts, right), texts, len(media)),
            direction(first_right(of_media, right.T), media, len(texts)),
        )

    found = [scored("embeddings", sims, sims.T)]
    if match is not None:
        of_media, of_texts = rerank(sims, match, k)
        # Behind those that were looked at the others keep their order.
        behind = [
            torch.where(new == UNSCORED, old + 10 * UNSCORED, new)
            for new, old in ((of_media, sims), (of_texts, sims.T))
        ]
        found.append(scored("reranked", *behind))
    return found


def multiple_choice(
    sims: Float[Tensor, "q n"], temperature: float, logits: Float[Tensor, "q n 2"] | None
) -> Float[Tensor, "q n"]:
    """Score of every answer: 0.7 of its chance by the matching head and 0.3 of its softmax by
    similarity, or the latter alone where there is no such head."""
    similar = (sims / temperature).softmax(dim=1)
    if logits is None:
        return similar
    return (1 - _CONTRASTIVE) * logits.softmax(dim=-1)[..., 1] + _CONTRASTIVE * similar


@dataclass(frozen=True)
class ChoiceScore:
    """How often the right answer is chosen.

    Attributes:
        ranking: by the similarity of embeddings, or mixed with the matching head's chance.
        accuracy: percent, with Wilson's interval.
        questions: how many.
        by_chance: percent that guessing would choose.
    """

    ranking: Literal["embeddings", "matched"]
    accuracy: Figure
    questions: int
    by_chance: float


def choice_score(
    ranking: Literal["embeddings", "matched"],
    similar: Sequence[Float[Tensor, " n"]],
    matched: Sequence[Float[Tensor, "n 2"]] | None,
    answers: Sequence[int],
    temperature: float,
) -> ChoiceScore:
    """Accuracy over questions, each with its own number of answers; of equal scores a wrong one is
    chosen.

    Args:
        ranking: which it is.
        similar: of the medium and each answer.
        matched: logits of the matching head, or None.
        answers: the right ones.
        temperature: of the softmax over similarities.
    """
    hits = 0
    for i, (sims, answer) in enumerate(zip(similar, answers, strict=True)):
        logits = None if matched is None else matched[i][None]
        scores = multiple_choice(sims[None], temperature, logits)[0]
        hits += int((scores >= scores[answer]).sum() == 1)
    low, high = wilson_interval(hits, len(answers))
    guessed = 100 * float(np.mean([1 / len(sims) for sims in similar]))
    share = Figure(100 * hits / len(answers), 100 * low, 100 * high)
    return ChoiceScore(ranking, share, len(answers), guessed)


def owners_of(captions: Sequence[Sequence[str]]) -> tuple[list[str], Int[Tensor, " c"]]:
    """All captions one after the other, and the position of what each describes."""
    owners = [i for i, several in enumerate(captions) for _ in several]
    return [text for several in captions for text in several], torch.tensor(owners)
