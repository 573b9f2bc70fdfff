"""Ranks, intervals and re-ranking mean what they say."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vistill.evaluation.retrieval import (
    UNSCORED,
    direction,
    first_right,
    owners_of,
    rerank,
    retrieval_scores,
)
from vistill.losses.video_text import similarity


def test_the_best_of_several_right_answers_counts() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.7], [0.1, 0.2, 0.3, 0.4]])
    right = torch.tensor([[False, True, False, True], [True, True, False, True]])
    assert first_right(scores, right).tolist() == [3, 1]


def test_a_constant_score_finds_nothing() -> None:
    right = torch.eye(10, dtype=torch.bool)
    assert first_right(torch.zeros(10, 10), right).tolist() == [10] * 10


def test_similarity_is_the_mean_over_frames() -> None:
    media, texts = torch.randn(3, 4, 8), torch.randn(5, 8)
    expected = torch.stack(
        [
            torch.stack([F.cosine_similarity(frame, texts, dim=1) for frame in clip]).mean(0)
            for clip in media
        ]
    )
    torch.testing.assert_close(similarity(media, texts), expected)


def test_figures() -> None:
    ranks = np.array([1, 1, 2, 4, 11, 30])
    found = direction(ranks, np.arange(6), 40)
    assert (found.queries, found.candidates) == (6, 40)
    assert [figure.value for figure in (found.r1, found.r5, found.r10)] == pytest.approx(
        [100 / 3, 200 / 3, 200 / 3]
    )
    assert found.median_rank.value == 3
    assert found.mean_rank.value == pytest.approx(49 / 6)
    for figure in (found.r1, found.r5, found.r10, found.median_rank, found.mean_rank):
        assert figure.low < figure.value < figure.high


def test_intervals_cover() -> None:
    """Of many data sets, about 95 % of the intervals hold the true recall."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        ranks = np.where(rng.random(150) < 0.4, 1, 20)
        found = direction(ranks, np.arange(150), 20).r1
        held += found.low <= 40 <= found.high
    assert 88 <= held <= 99


def test_captions_of_one_medium_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(0)
    ranks = np.where(rng.random(60) < 0.5, 1, 20)
    alone = direction(ranks, np.arange(60), 60).r1
    fivefold = direction(np.repeat(ranks, 5), np.repeat(np.arange(60), 5), 60).r1
    assert fivefold.value == pytest.approx(alone.value)
    width = alone.high - alone.low
    assert fivefold.high - fivefold.low == pytest.approx(width, rel=0.15)
    naive = direction(np.repeat(ranks, 5), np.arange(300), 60).r1
    assert naive.high - naive.low < 0.6 * width


@pytest.mark.parametrize("k", [1, 3, 100])
def test_every_medium_is_asked_once_about_what_is_near(k: int) -> None:
    torch.manual_seed(0)
    sims, logits = torch.randn(6, 9), torch.randn(6, 9)
    asked: list[int] = []

    def match(one: int, texts: np.ndarray) -> torch.Tensor:
        asked.append(one)
        return logits[one, texts]

    of_media, of_texts = rerank(sims, match, k)
    assert asked == list(range(6))
    for found, near, full in ((of_media, sims, logits), (of_texts, sims.T, logits.T)):
        for row in range(len(found)):
            best = near[row].argsort(descending=True)[:k]
            expected = torch.full_like(near[row], UNSCORED)
            expected[best] = full[row, best]
            torch.testing.assert_close(found[row], expected)


def test_re_ranking_all_is_ranking_by_the_head() -> None:
    torch.manual_seed(0)
    sims, logits = torch.randn(5, 10), torch.randn(5, 10)
    owners = torch.arange(10) // 2
    plain, reranked = retrieval_scores(sims, owners, lambda i, t: logits[i, t], k=100)
    assert plain == retrieval_scores(sims, owners)[0]
    assert reranked.text_to_media == retrieval_scores(logits, owners)[0].text_to_media
    assert reranked.media_to_text == retrieval_scores(logits, owners)[0].media_to_text
    assert reranked.text_to_media.queries == 10
    assert reranked.media_to_text.candidates == 10


def test_what_was_not_re_ranked_keeps_its_order_behind() -> None:
    sims = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    owners = torch.tensor([1, 1, 0, 1])
    (_, reranked) = retrieval_scores(
        torch.cat([sims, -sims]), owners, lambda i, t: torch.zeros(len(t)), k=1
    )
    # The right text of the first medium is third by similarity and not looked at.
    assert reranked.media_to_text.r1.value == 50.0
    assert reranked.media_to_text.r5.value == 100.0
    assert reranked.media_to_text.mean_rank.value == 2.0


def test_owners() -> None:
    texts, owners = owners_of([["a", "b"], ["c"]])
    assert (texts, owners.tolist()) == (["a", "b", "c"], [0, 0, 1])
