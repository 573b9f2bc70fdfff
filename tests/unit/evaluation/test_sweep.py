"""Fine-tuning as KDEP transfers: SGD in steps, settings chosen on held-out training pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quietly import evaluated
from torch import nn

from vistill.config.finetune import FineTuneConfig
from vistill.data import open_source
from vistill.errors import UserError
from vistill.evaluation.classifier import build_classifier
from vistill.evaluation.finetune import class_scores, fine_tune, finetune_groups
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.sweep import candidates, choose
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone
from vistill.models.vit import VisionTransformer
from vistill.training.distributed import alone

QUIET = {"world": alone("cpu"), "workers": 0, "progress": False}
SHORT = {"epochs": 9, "global_batch_size": 9, "crop_scale": (0.5, 1.0)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in {"blue": (40, 60, 200), "green": (50, 190, 60)}.items():
        (root / name).mkdir()
        for i in range(15):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return str(root)


def cnn() -> Backbone:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2)
    )
    return PooledBackbone(nn.Sequential(layers, nn.ReLU()), image_size=16)


def vit() -> Backbone:
    return VisionTransformer(image_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3)


@pytest.mark.parametrize("build", [cnn, pytest.param(vit, marks=pytest.mark.slow)])
def test_the_best_setting_is_trained_again_and_told(pictures, build):
    torch.manual_seed(0)
    options = FineTuneConfig(
        recipe="kdep_sweep", lrs=(3e-2, 1e-9), weight_decays=(5e-4,), test_every=3, **SHORT
    )
    run = {"protocols": ("finetune",), "train_first": 11, "finetune": options}
    backbone = build()
    before = backbone.normalization
    (found,) = evaluated(backbone, open_source(pictures), **run)
    assert (found.labels_used, found.n_test) == (22, 8)
    assert [(one.lr, one.weight_decay) for one in found.tried] == [(1e-9, 5e-4), (3e-2, 5e-4)]
    assert found.setting == found.tried[1]
    assert found.setting.validation_top1 > found.tried[0].validation_top1
    assert found.best_top1 >= found.top1 > 0.8
    alone = options.model_copy(update={"lrs": (3e-2,)})
    (again,) = evaluated(backbone, open_source(pictures), **run | {"finetune": alone})
    assert (again.top1, again.tried, again.setting) == (found.top1, (), None)
    assert backbone.normalization == before


def test_too_few_labels_to_choose_are_told_before_any_work(pictures):
    options = FineTuneConfig(recipe="kdep_cub", **SHORT)
    with pytest.raises(UserError, match=r"class number 0 .* single labelled .* finetune\.lr "):
        evaluated(
            vit(),
            open_source(pictures),
            protocols=("knn", "finetune"),
            budgets=("1/class",),
            finetune=options,
        )


def test_published_settings():
    options = FineTuneConfig(recipe="kdep_cifar100")
    torch.manual_seed(0)
    method = build_classifier(cnn(), 4, image_size=16, pool="avg", options=options, seed=0)
    classifier = method
    groups = finetune_groups(classifier, options)
    assert {group["weight_decay"] for group in groups} == {5e-4}
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert classifier.head.bias.abs().max() > 0
    assert classifier.head.weight.abs().max() <= 12**-0.5
    assert classifier.student.normalization.mean == (0.5071, 0.4867, 0.4408)
    assert classifier.test_normalization == classifier.student.normalization


def test_the_published_schedule_reaches_the_loop(pictures, monkeypatch):
    asked = {}
    monkeypatch.setattr("vistill.evaluation.finetune.fit", lambda *_, **told: asked.update(told))
    options = FineTuneConfig(recipe="kdep", global_batch_size=10)
    fine_tune(
        cnn(),
        open_source(pictures),
        np.arange(30),
        num_classes=2,
        options=options,
        inputs=Inputs(16),
        **QUIET,
    )
    optim, train = asked["optim"], asked["train"]
    assert (train.epochs, train.evaluate_every) == (150, 5)
    assert (optim.optimizer, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (optim.schedule, optim.step_epochs, optim.gamma) == ("step", 50, 0.1)
    assert (optim.lr, optim.warmup_epochs, optim.clip_norm) == (1e-3, 0.0, None)


def test_tests_may_normalise_otherwise():
    class Batch:
        def unit_pixels(self):
            return torch.full((1, 3, 16, 16), 0.5)

    found = []
    for statistics in (None, "clip"):
        torch.manual_seed(0)
        options = FineTuneConfig(test_normalization=statistics, head_init="uniform")
        method = build_classifier(cnn(), 4, image_size=16, pool="avg", options=options, seed=0)
        method.eval()
        found.append(class_scores(method)(Batch()))
        assert method.student.normalization.mean[0] == 0.485
    assert not torch.equal(*found)


def test_candidates_and_choice():
    options = FineTuneConfig(lrs=(0.1, 0.01), weight_decays=(0.0, 0.5))
    settings = candidates(options)
    assert [(s.lr, s.weight_decay) for s in settings] == [
        (0.01, 0.0),
        (0.01, 0.5),
        (0.1, 0.0),
        (0.1, 0.5),
    ]
    chosen, tried = choose(settings, lambda s: min(s.lr + s.weight_decay, 0.5))
    assert chosen == settings[1]  # the gentler of two that are equally good
    assert [one.validation_top1 for one in tried] == [0.01, 0.5, 0.1, 0.5]
    assert FineTuneConfig(recipe="kdep_sweep", lr=0.5).lrs == ()
    assert len(candidates(FineTuneConfig(recipe="kdep_sweep"))) == 8


def test_a_class_of_which_all_are_trained_on_is_told(pictures, tmp_path):
    """Caltech's split where a class has exactly as many pictures as are learned from."""
    for number in range(13):
        for name in ("blue", "green", "rare") if number < 11 else ("blue", "green"):
            (tmp_path / name).mkdir(exist_ok=True)
            source = Path(pictures) / ("green" if name == "rare" else name) / f"{number:02}.png"
            (tmp_path / name / source.name).write_bytes(source.read_bytes())
    run = {"protocols": ("knn",), "train_first": 11}
    (found,) = evaluated(vit(), open_source(str(tmp_path)), **run)
    assert (found.labels_used, found.n_test, found.untested) == (33, 4, ("rare",))
    assert found.mean_per_class == pytest.approx(found.top1)  # two classes of two pictures
