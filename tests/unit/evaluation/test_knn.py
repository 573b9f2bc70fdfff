import pytest
import torch

from vistill.evaluation.knn import knn_votes


def naive(train, labels, test, num_classes, k, temperature):
    rows = []
    for query in test:
        cosine = torch.nn.functional.cosine_similarity(query[None], train)
        votes = torch.zeros(num_classes)
        for i in cosine.argsort(descending=True)[:k]:
            votes[labels[i]] += torch.exp(cosine[i] / temperature)
        rows.append(votes / votes.sum())
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_equals_the_definition(chunk):
    torch.manual_seed(0)
    train, test = torch.randn(40, 8), torch.randn(15, 8)
    labels = torch.randint(0, 4, (40,))
    votes = knn_votes(train, labels, test, 4, k=5, temperature=0.3, chunk=chunk)
    shares = votes.clamp(min=0)
    torch.testing.assert_close(
        shares / shares.sum(1, keepdim=True), naive(train, labels, test, 4, 5, 0.3)
    )


def test_length_of_features_does_not_matter_and_k_is_clipped():
    train = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.1, 3.0]])
    labels = torch.tensor([0, 1, 1])
    votes = knn_votes(train, labels, torch.tensor([[0.01, 0.0], [0.0, 100.0]]), 3, k=20)
    assert votes.argmax(1).tolist() == [0, 1]
    assert (votes[:, 2] == -torch.inf).all()


def test_a_near_neighbour_outweighs_many_far_ones():
    train = torch.tensor([[1.0, 0.05]] + [[0.5, 0.9]] * 5)
    votes = knn_votes(train, torch.tensor([0, 1, 1, 1, 1, 1]), torch.tensor([[1.0, 0.0]]), 2)
    assert votes.argmax() == 0
