"""Figures of teachers, and which of them is recommended."""

from typing import Any

import pytest
import torch

from vistill.analysis.compactness import compactness
from vistill.analysis.teachers import (
    TeacherScores,
    compactness_with_interval,
    of_features,
    recommended,
)


def drawn(count: int, width: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 4
    centres = torch.randn(4, width, generator=generator)
    noise = torch.randn(count, width, generator=generator)
    return (centres[labels] + spread * noise).double(), labels


def test_figures_without_labels_are_those_of_the_directions() -> None:
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0])
    features = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0))).Q
    features = (features - features.mean(dim=0)) @ torch.diag(scale)
    found = of_features(features.double(), 2)
    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    shares = values.square() / values.square().sum()
    assert found["width"] == 4
    assert found["effective_rank"] == pytest.approx(float((-shares * shares.log()).sum().exp()))
    assert found["svd_std_ratio"] == pytest.approx(float(values[0] / values[1]))
    assert found["energy"] == pytest.approx(float(shares[:2].sum()))
    std = features.double().std(dim=0)
    assert found["std_ratio"] == pytest.approx(float(std.max() / std.min()))


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_the_interval_holds_the_compactness_of_many_more_pictures(spread: float) -> None:
    features, labels = drawn(200, 5, spread)
    value, (low, high), gap = compactness_with_interval(features, labels)
    assert low < value < high
    assert value == pytest.approx(compactness(features, labels).compactness)
    many = compactness(*drawn(20000, 5, spread)).compactness
    assert low - 0.02 < many < high + 0.02
    assert gap > 0


def scored(name: str, knn: float | None, kappa: float = 0.5, **more: Any) -> TeacherScores:
    told: dict[str, Any] = {"width": 8, "effective_rank": 4.0, "std_ratio": 2.0,
                            "svd_std_ratio": 3.0, "energy": 1.0, "seconds": 1.0}  # fmt: skip
    if knn is not None:
        told |= {"knn": knn, "knn_interval": (knn - 0.03, knn + 0.03), "compactness": kappa,
                 "compactness_interval": (kappa - 0.05, kappa + 0.05), "cos_gap": 0.1}  # fmt: skip
    return TeacherScores(name, **(told | more))


@pytest.mark.parametrize(
    ("scores", "best", "reason"),
    [
        # One that knows nothing is the least compact of all, and is not chosen for it.
        ([("a", 0.9, 0.5), ("b", 0.88, 0.3), ("noise", 0.1, 0.01)], "b", "of the 2 whose"),
        ([("a", 0.9, 0.5), ("b", 0.7, 0.3)], "a", "no other one's neighbours"),
        ([("a", 0.9, 0.50), ("b", 0.88, 0.48)], "b", "chance of pictures"),
    ],
)
def test_who_is_recommended(scores: list[Any], best: str, reason: str) -> None:
    name, why = recommended([scored(*one) for one in scores])
    assert name == best
    assert reason in why


def test_without_labels_the_most_directions() -> None:
    name, why = recommended([scored("a", None), scored("b", None, effective_rank=9.0)])
    assert name == "b"
    assert "without labels" in why
