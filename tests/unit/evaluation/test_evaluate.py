"""The whole evaluation on small pictures whose class is their colour."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quietly import evaluated

from vistill.config.evaluation import LinearProbeConfig
from vistill.config.finetune import FineTuneConfig
from vistill.data import open_source
from vistill.errors import UserError
from vistill.evaluation.features import Features, collect, pooling
from vistill.evaluation.finetune import fine_tune
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.labelled import labelled_parts
from vistill.models.vit import VisionTransformer
from vistill.training.distributed import alone

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}


def write_pictures(folder: Path, per_class: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            noise = rng.normal(0, 40, (20, 20, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}_{i}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train", 12, 0)
    write_pictures(root / "test", 6, 1)
    return str(root / "train"), str(root / "test")


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(image_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    return model.eval()


QUICK = FineTuneConfig(
    epochs=12, min_steps=0, global_batch_size=12, lr=3e-3, rand_augment=None, random_erasing=0.0
)
SHORT = LinearProbeConfig(min_steps=100)


@pytest.mark.slow
def test_all_protocols_and_budgets(folders, vit):
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    scores = evaluated(
        vit,
        *map(open_source, folders),
        budgets=(1.0, "2/class"),
        seeds=(0, 1),
        linear=SHORT,
        finetune=QUICK,
    )
    found = [(s.protocol, s.budget, s.seed, s.labels_used) for s in scores]
    assert found == [
        ("knn", 1.0, 0, 36),
        ("knn", "2/class", 0, 6),
        ("knn", "2/class", 1, 6),
        *((name, b, s, n) for name in ("linear", "finetune")
          for b, n in ((1.0, 36), ("2/class", 6)) for s in (0, 1)),
    ]  # fmt: skip
    assert all(s.n_test == 18 and s.top5 is None and s.low <= s.top1 <= s.high for s in scores)
    assert all(s.top1 > 0.8 for s in scores if s.budget == 1.0)
    assert all(torch.equal(before[k], v) for k, v in vit.state_dict().items())
    again = evaluated(
        vit, *map(open_source, folders), seeds=(1,), linear=SHORT, finetune=QUICK,
    )  # fmt: skip
    same = {s.protocol: s.top1 for s in scores if s.seed == 1 and s.budget == 1.0}
    assert {s.protocol: s.top1 for s in again if s.protocol != "knn"} == same


def test_fine_tuning_is_the_same_for_any_number_of_workers(folders, vit):
    source = open_source(folders[0])
    heads = []
    for workers in (0, 2):
        classifier = fine_tune(
            vit, source, np.arange(36), num_classes=3, inputs=Inputs(16), workers=workers,
            options=QUICK.model_copy(update={"epochs": 1, "mixup": 0.8, "random_erasing": 0.5}),
            world=alone("cpu"), progress=False,
        )  # fmt: skip
        heads.append(classifier.head.weight.detach())
    assert torch.equal(*heads)
    assert heads[0].abs().max() > 1e-3


def test_small_budget_still_gets_its_steps(folders, vit, monkeypatch):
    seen = {}

    def fake_fit(method, stream, *, optim, train, **rest):
        seen.update(optim=optim, train=train, stream=stream)

    monkeypatch.setattr("vistill.evaluation.finetune.fit", fake_fit)
    source = open_source(folders[0])
    facts = dict(num_classes=3, inputs=Inputs(16), world=alone("cpu"), progress=False)  # noqa: C408
    fine_tune(vit, source, np.arange(5), options=FineTuneConfig(), **facts)
    assert seen["train"].global_batch_size == 5
    assert seen["train"].epochs * seen["stream"].steps_per_epoch >= 400
    assert seen["optim"].betas == (0.9, 0.999)
    copies = FineTuneConfig(repeats=3, global_batch_size=4)
    fine_tune(vit, source, np.arange(5), options=copies, **facts)
    (batch,) = seen["stream"].iterate(0, 1)
    assert batch.ids.tolist() == [i for i in batch.ids[::3].tolist() for _ in range(3)]
    recipe = FineTuneConfig(recipe="mae_base", micro_batch_size=10)
    fine_tune(vit, source, np.arange(36), options=recipe, **facts)
    train = seen["train"]
    assert (train.epochs, train.global_batch_size, train.micro_batch_size) == (100, 36, 9)
    assert (seen["optim"].lr, seen["optim"].base_lr, seen["optim"].warmup_epochs) == (None, 5e-4, 5)


def test_without_test_pictures_a_part_of_the_training_pictures_is_held_out(folders):
    source = open_source(folders[0])
    train, test, number = labelled_parts(source, None, 0.25)
    assert number == 3
    assert not set(train.indices) & set(test.indices)
    assert np.bincount(source.labels[test.indices]).tolist() == [3, 3, 3]


def test_unreadable_test_pictures_are_left_out_and_named(folders, vit, tmp_path, capsys):
    shutil.copytree(folders[1], tmp_path / "test")
    broken = tmp_path / "test" / "red" / "1_0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (score,) = evaluated(
        vit, open_source(folders[0]), open_source(str(tmp_path / "test")), protocols=("knn",),
        progress=True,
    )  # fmt: skip
    assert score.n_test == 17
    assert [name.endswith("1_0.png") for name in score.broken] == [True]
    assert "1 unreadable test pictures are left out" in capsys.readouterr().err


def test_classes_in_another_order_are_matched_by_name(folders, vit):
    test = open_source(folders[1])
    plain = evaluated(
        vit,
        open_source(folders[0]),
        test,
        protocols=("knn",),
    )
    test.classes = test.classes[::-1]
    test.labels = 2 - test.labels
    turned = evaluated(
        vit,
        open_source(folders[0]),
        test,
        protocols=("knn",),
    )
    assert turned[0].top1 == plain[0].top1


def test_differing_classes_are_named(folders, vit, tmp_path):
    shutil.copytree(folders[1], tmp_path / "test")
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "rot")
    with pytest.raises(UserError, match=r"only in .*test: rot; only in .*train: red"):
        evaluated(vit, open_source(folders[0]), open_source(str(tmp_path / "test")))


def test_pictures_without_labels_are_refused(folders, vit):
    with pytest.raises(UserError, match="has no labels"):
        evaluated(vit, open_source(str(Path(folders[0]) / "red")))


def test_mistakes_are_told_before_any_work(folders, vit, monkeypatch):
    monkeypatch.setattr("vistill.evaluation.pictures.collect", None)
    source = open_source(folders[0])
    with pytest.raises(UserError, match="num_heads=5"):
        evaluated(vit, source, finetune=FineTuneConfig(num_heads=5))
    with pytest.raises(UserError, match="rand-x"):
        evaluated(vit, source, finetune=FineTuneConfig(rand_augment="rand-x"))
    with pytest.raises(UserError, match="99/class"):
        evaluated(vit, source, budgets=("99/class",))


def test_features_are_those_of_the_test_view_and_the_mode_is_put_back(folders, vit):
    vit.set_drop_path(0.5)
    vit.train()
    source = open_source(folders[0])

    def features(*indices: int) -> Features:
        return collect(
            vit, pooling(vit, "cls"), source, np.array(indices), inputs=Inputs(16), batch_size=2,
            workers=0, device="cpu", progress=None,
        )  # fmt: skip

    found = features(30, 2, 7)
    assert vit.training
    assert not found.broken
    assert found.labels.tolist() == source.labels[[30, 2, 7]].tolist()
    torch.testing.assert_close(found.features[1:2], features(2).features)
    vit.eval()
    torch.testing.assert_close(found.features, features(30, 2, 7).features)
