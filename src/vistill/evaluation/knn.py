"""Weighted nearest-neighbour classification of frozen features (arXiv 1805.01978, section 3.4)."""

import time

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.config.evaluation import KNNConfig
from vistill.evaluation.pictures import Answers, KnownFeatures
from vistill.models.backbone import Backbone
from vistill.training.distributed import World


def evaluate(model: Backbone, data: KnownFeatures, options: KNNConfig, world: World) -> Answers:
    """The evaluator `knn`: ranks share the features, of which rank 0 counts the votes."""
    split = data.split(model)
    start = time.monotonic()
    votes = world.once(
        lambda: knn_votes(
            split.bank,
            split.labels,
            split.queries,
            data.num_classes,
            k=options.k,
            temperature=options.temperature,
        ).cpu()
    )
    seconds = time.monotonic() - start
    return Answers(votes, split.truth, len(split.labels), seconds, split.broken)


@torch.no_grad()
def knn_votes(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
    itself: bool = True,
) -> Float[Tensor, "m c"]:
    """Votes of the k training features of highest cosine similarity.

    Args:
        train: labelled features.
        train_labels: their classes.
        test: features to classify.
        num_classes: number of classes C.
        k: neighbours, clipped to the number of training features.
        temperature: a neighbour of similarity s votes with weight exp(s / temperature).
        chunk: test features compared at once; bounds memory at chunk · n similarities.
        itself: whether a feature may vote for itself; if not, `test` is `train`.

    Returns:
        Summed weights, -inf for classes without a neighbour. They are scaled by one factor per test
        feature so that the nearest neighbour weighs 1, which leaves the ranking as it is.
    """
    bank = F.normalize(train.float(), dim=1)
    k = min(k, len(bank) - (not itself))
    votes = []
    for number, queries in enumerate(test.float().split(chunk)):
        similarity = F.normalize(queries, dim=1) @ bank.T
        if not itself:
            similarity.diagonal(number * chunk).fill_(-torch.inf)
        similarity, nearest = similarity.topk(k, dim=1)
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        tally = weights.new_zeros(len(queries), num_classes)
        tally.scatter_add_(1, train_labels[nearest], weights)
        votes.append(tally.masked_fill(tally == 0, -torch.inf))
    return torch.cat(votes)
