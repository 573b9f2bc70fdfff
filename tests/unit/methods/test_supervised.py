"""Labels as a term of KDEP and alone, and class scores in front of the last activation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from building import SECTIONS
from PIL import Image
from torch import nn

import vistill
from vistill.batch import Batch
from vistill.errors import UserError
from vistill.losses.baselines import label_cross_entropy
from vistill.methods import build_method
from vistill.methods.ingredients import Ingredients
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.vit import VisionTransformer


class CNN(nn.Module):
    """A feature of which the last activation cuts off about half, and class scores of it."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def cnn(width: int, classes: int = 7, logits: bool = False) -> PooledBackbone:
    torch.manual_seed(width)
    return PooledBackbone(CNN(width, classes), image_size=16, logits=logits)


def batch(labels: list[int] | None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 16, 16, generator=generator)
    ids = torch.arange(4)
    return Batch(pixels, ids, ids, labels=None if labels is None else torch.tensor(labels))


def made(name: str, student, teacher=None, num_classes: int | str = 7, **options):
    config = SECTIONS[name].model_validate(options)
    given = Ingredients(name, student, teacher, config, num_classes=num_classes)
    return build_method(given)


def features(model: PooledBackbone, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pooled feature before and after the activation, by hand."""
    map_ = model.module.conv(model.normalization(pixels))
    return map_.mean((2, 3)), map_.relu().mean((2, 3))


PLAIN = {"align": "channel_random", "transform": "none", "color_jitter": None, "lighting_std": 0}


def test_cross_entropy_of_known_labels_by_hand():
    scores = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    first, last = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    found = label_cross_entropy(scores, torch.tensor([0, -1, 0]))
    assert float(found) == pytest.approx((first + last) / 2)
    smooth = label_cross_entropy(scores[:1], torch.tensor([0]), smoothing=0.2)
    assert float(smooth) == pytest.approx(0.9 * first + 0.1 * last)
    assert float(label_cross_entropy(scores, torch.tensor([-1, -1, -1]))) == 0.0


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("activation", ["before", "after"])
@pytest.mark.parametrize("num_classes", [7, 3])
def test_scores_of_both_sides_and_labels(where, activation, num_classes):
    """Seven classes of both: one classifier; three labelled ones: another."""
    student, teacher = cnn(5), cnn(9, logits=True)
    labels = [0, -1, 2, 1]
    weights = {"logits_weight": 0.5, "labels_weight": 2.0}
    places = {"logits_activation": where, "activation": activation}
    method = made("kdep", student, teacher, num_classes, **PLAIN, **weights, **places).train()
    losses = method(batch(labels))
    pixels = batch(None).pixels
    own, theirs = (dict(zip(("before", "after"), features(m, pixels), strict=True))
                   for m in (student, teacher))  # fmt: skip
    said, wanted = method.classifier(own[where]), teacher.module.fc(theirs[where])
    kl = 16 * F.kl_div((said / 4).log_softmax(1), (wanted / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(losses.terms["logits"], kl.detach())
    head = method.classifier if num_classes == 7 else method.label_classifier
    assert (method.label_classifier is None) == (num_classes == 7)
    expected = F.cross_entropy(head(own[where])[[0, 2, 3]], torch.tensor([0, 2, 1]))
    torch.testing.assert_close(losses.terms["labels"], expected.detach())
    aligned = method.maps["feature"](theirs[activation])
    feature = F.mse_loss(own[activation], aligned).detach()
    torch.testing.assert_close(losses.terms["feature"], feature)
    total = 3 * feature + 0.5 * kl + 2 * expected
    torch.testing.assert_close(losses.total.detach(), total.detach())
    losses.total.backward()
    assert all(p.grad is not None for n, p in method.named_parameters() if "classifier" in n)


def test_before_and_after_are_different_caches():
    keys = [
        made("kdep", cnn(5), cnn(9, logits=True), **PLAIN, logits_weight=w, logits_activation=a)
        .cache_key()["logits"]
        for w, a in ((0.0, "after"), (1.0, "after"), (1.0, "before"))
    ]  # fmt: skip
    assert keys == [False, True, "before"]


def test_what_has_no_one_layer_of_scores_is_refused():
    teacher = cnn(9, logits=True)
    teacher.module.fc = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 7))
    method = made("kdep", cnn(5), teacher, **PLAIN, logits_weight=1.0, logits_activation="before")
    with pytest.raises(UserError, match="the teacher has no linear layer"):
        method(batch(None))


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes)


@pytest.mark.parametrize("student", [lambda: cnn(5), vit])
def test_supervised_is_the_cross_entropy_of_the_pooled_feature(student):
    model = student().eval()
    method = made("supervised", model, num_classes=3, label_smoothing=0.1).eval()
    losses = method(batch([2, 0, -1, 1]))
    scores = method.classifier(model.pooled(model.normalization(batch(None).pixels)))
    expected = F.cross_entropy(
        scores[[0, 1, 3]], torch.tensor([2, 0, 1]), label_smoothing=0.1
    ).detach()
    torch.testing.assert_close(losses.total.detach(), expected)
    right = (scores.argmax(1)[[0, 1, 3]] == torch.tensor([2, 0, 1])).float().mean()
    torch.testing.assert_close(losses.watched["accuracy"], right)
    method.train()
    jittered, still = method.view(batch([0] * 4)), batch([0] * 4)
    assert (jittered.pixels - still.pixels).abs().max() > 0.01
    one = replace(still, pixels=still.pixels[:, :, None].repeat(1, 1, 3, 1, 1))
    frames = method.view(one).pixels.unbind(2)
    for frame in frames:  # of a clip all alike
        torch.testing.assert_close(frame, frames[0])
    assert (frames[0] - still.pixels).abs().max() > 0.01


def test_labels_have_to_be_there():
    with pytest.raises(UserError, match="supervised learns from labels, but the pictures have no"):
        build_method(Ingredients("supervised", cnn(5), None, SECTIONS["supervised"]()))
    with pytest.raises(UserError, match="kdep learns from labels, but cells has none"):
        made("kdep", cnn(5), cnn(9), "cells has none", labels_weight=1.0)
    with pytest.raises(UserError, match="name only one"):
        made("supervised", cnn(5), num_classes=1)
    with pytest.raises(UserError, match="use the method supervised"):
        made("kdep", cnn(5), cnn(9), labels_weight=1.0, weight=0.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in {"blue": (40, 60, 200), "red": (200, 50, 60)}.items():
        (root / name).mkdir()
        for i in range(12):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


RUN = {
    "data.image_size": 16, "data.workers": 0, "data.held_out": 0.2, "train.device": "cpu",
    "train.epochs": 6, "train.global_batch_size": 6, "optim.lr": 3e-3, "optim.warmup_epochs": 1,
    "train.loggers": [], "train.evaluate_every": 6,
}  # fmt: skip
SMALL = {"model": "vit", "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize("method", ["supervised", "kdep"])
def test_a_run_learns_from_labels(pictures, tmp_path, method):
    words = RUN | {f"student.{k}": v for k, v in SMALL.items()}
    teacher = None
    if method == "kdep":
        words |= {"method.labels_weight": 1.0, "method.align": "identity"}
        teacher = vit()
        teacher.untrained = False
    vistill.pretrain(method, data=pictures, out=tmp_path / "run", teacher=teacher, overrides=words)
    lines = [json.loads(s) for s in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/labels"] for line in lines if "loss/labels" in line]
    assert losses[-1] < 0.5 * losses[0]
    if method == "supervised":
        assert lines[-1]["accuracy"] > 0.9
    assert not vistill.load_backbone(tmp_path / "run").untrained


def test_a_run_without_labels_is_refused_before_any_work(pictures, tmp_path):
    words = RUN | {f"student.{k}": v for k, v in SMALL.items()}
    with pytest.raises(UserError, match="none of its files lies in a folder of its class"):
        vistill.pretrain("supervised", data=pictures / "red", out=tmp_path / "run", overrides=words)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="supervised learns without a teacher"):
        vistill.pretrain(
            "supervised", data=pictures, out=tmp_path / "run", teacher="vit_tiny", overrides=words
        )
