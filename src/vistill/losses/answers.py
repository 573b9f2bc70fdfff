"""Answers to questions, word by word, and the choice among a list of them (UMT, section 4.3; spec
umt 11)."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def answer_losses(
    scores: Float[Tensor, "b l w"], answers: Int[Tensor, "b l"], pad: int
) -> Float[Tensor, " b"]:
    """Cross-entropy of every answer: each token foretells the next one; summed over tokens.

    Args:
        scores: of every word, behind each token.
        answers: token ids, filled up with `pad`.
        pad: its id, which nothing has to foretell.
    """
    asked = answers[:, 1:].masked_fill(answers[:, 1:] == pad, -100)
    found = F.cross_entropy(scores[:, :-1].float().transpose(1, 2), asked, reduction="none")
    return found.sum(dim=1)


def first_words(
    scores: Float[Tensor, "b w"], answers: Int[Tensor, "a l"], k: int
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """The `k` answers that most likely begin as is foretold; probability and number.

    Args:
        scores: of the first word behind [CLS].
        answers: token ids, [CLS] in front.
        k: at most all of them.
    """
    chance = scores.float().softmax(dim=1)[:, answers[:, 1]]
    found = chance.topk(k, dim=1)
    return found.values, found.indices


def ranked(
    first: Float[Tensor, "b k"], losses: Float[Tensor, "b k"], numbers: Int[Tensor, "b k"]
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Chance of each of some answers, the best first, and its number.

    The first word counts twice, once by itself and once in the loss, as published.

    Args:
        first: probability of its first word.
        losses: of the whole answer.
        numbers: of the answers.
    """
    chance = (first.log() - losses).softmax(dim=1)
    order = chance.argsort(dim=1, descending=True)
    return chance.gather(1, order), numbers.gather(1, order)
