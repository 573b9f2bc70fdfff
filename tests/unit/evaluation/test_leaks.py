"""No protocol learns from a picture that it is judged by, nor from labels beyond its budget."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quietly import evaluated
from torch import nn

from vistill.config.evaluation import LinearProbeConfig
from vistill.config.finetune import FineTuneConfig
from vistill.data import Source, open_source
from vistill.evaluation import knn, tuning
from vistill.evaluation.features import Features
from vistill.evaluation.labelled import labelled_parts
from vistill.models.vit import VisionTransformer

PER_CLASS = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    """Noise: what is told of its classes can only have been seen."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        for i in range(PER_CLASS):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return open_source(str(root))


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(image_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2)


class Spy:
    """Stands in for fine-tuning and for testing, and keeps what each was shown.

    The setting with the higher rate knows by heart what it was trained on, and nothing else.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[tuple[float, list[int]]] = []
        self.tested: list[list[int]] = []
        monkeypatch.setattr(tuning, "fine_tune", self.fine_tune)
        monkeypatch.setattr(tuning, "collect", self.collect)

    def fine_tune(self, backbone: Any, source: Source, indices: np.ndarray, **told: Any) -> Any:
        options = told["options"]
        self.trained.append((options.lr, indices.tolist()))
        classifier = nn.Identity()
        classifier.options = options
        classifier.seen = set(indices.tolist())
        if told["on_test"] is not None:
            told["on_test"](classifier)
        return classifier

    def collect(self, model: Any, compute: Any, source: Source, ids: Any, **_: Any) -> Features:
        self.tested.append(ids.tolist())
        by_heart = [model.options.lr > 0.5 and i in model.seen for i in ids.tolist()]
        right = torch.tensor(by_heart) | (torch.from_numpy(ids) % 4 > 0) * (model.options.lr < 0.5)
        labels = torch.from_numpy(source.labels)[ids]
        scores = nn.functional.one_hot((labels + ~right) % 3, 3).float()
        return Features(scores, labels, {}, torch.from_numpy(ids))


def test_settings_are_judged_by_pictures_that_they_were_not_trained_on(source, vit, monkeypatch):
    spy = Spy(monkeypatch)
    options = FineTuneConfig(lrs=(0.1, 0.9), validation_share=0.25)
    (score,) = evaluated(
        vit,
        source,
        protocols=("finetune",),
        finetune=options,
        test_share=0.25,
    )
    (gentle, fit), (_, again), (chosen, whole) = spy.trained
    first, second, test = spy.tested
    assert fit == again
    assert first == second
    assert not set(fit) & set(first)
    assert sorted(fit + first) == sorted(whole)
    assert not set(whole) & set(test)
    assert sorted(whole + test) == list(range(3 * PER_CLASS))
    assert (gentle, chosen) == (0.1, 0.1)
    assert score.setting is not None
    assert score.setting.validation_top1 == pytest.approx(np.mean(np.array(first) % 4 > 0))
    assert score.top1 == pytest.approx(np.mean(np.array(test) % 4 > 0))
    assert [one.validation_top1 for one in score.tried][1] == 0.0


@pytest.mark.parametrize("budget", [1.0, "2/class"])
def test_test_pictures_are_not_learned_from(source, vit, budget):
    """Of noise, neighbours and a line through features know only what they have seen."""
    train, test, _ = labelled_parts(source, None, 0.25)
    assert not set(train.indices) & set(test.indices)
    scores = evaluated(
        vit, source, protocols=("knn", "linear"), test_share=0.25, budgets=(budget,),
        linear=LinearProbeConfig(base_lrs=(10.0,), min_steps=200, epochs=1),
    )  # fmt: skip
    for score in scores:
        assert score.labels_used == (27 if budget == 1.0 else 6)
        assert score.n_test == 9
        assert score.top1 < 0.9


def test_a_budget_is_all_that_is_learned_from(source, vit, monkeypatch):
    banks = []
    usual = knn.knn_votes

    def votes(bank: Any, labels: Any, queries: Any, *arguments: Any, **named: Any) -> Any:
        banks.append((len(bank), labels.bincount().tolist()))
        return usual(bank, labels, queries, *arguments, **named)

    monkeypatch.setattr(knn, "knn_votes", votes)
    evaluated(vit, source, protocols=("knn",), budgets=(1.0, "2/class", 0.01))
    assert banks == [(30, [10, 10, 10]), (6, [2, 2, 2]), (3, [1, 1, 1])]


def test_labels_of_another_order_are_those_of_the_training_pictures(source, tmp_path: Path):
    other = open_source(str(Path(source.name)))
    other.classes, other.labels = other.classes[::-1], 2 - other.labels
    other.labels[3] = -1
    _, test, _ = labelled_parts(source, other)
    assert test.indices.tolist() == [i for i in range(3 * PER_CLASS) if i != 3]
    assert test.classes[test.indices].tolist() == source.labels[test.indices].tolist()
    assert test.classes[3] == -1
