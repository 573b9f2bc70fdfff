"""What a run hands on: which pictures the pass before the first step sees and in which view, and
what makes a run another one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from cell_runs import WORDS

from vistill.batch import Batch
from vistill.config.loading import load_config
from vistill.data import BrokenFiles, eval_batches
from vistill.errors import UserError
from vistill.models.vit import VisionTransformer
from vistill.runs import pretraining
from vistill.runs.adapting import Adapted
from vistill.runs.fingerprint import _LATER, fingerprint
from vistill.runs.pretraining import Prepared, prepare
from vistill.runs.reading import open_samples
from vistill.training.distributed import World

SETTINGS = WORDS | {"train.micro_batch_size": 1}


def vit(width: int) -> VisionTransformer:
    torch.manual_seed(width)
    sizes = {"embed_dim": width, "depth": 1, "num_heads": 2}
    return VisionTransformer(image_size=32, patch_size=8, **sizes)


def prepared(student_width: int = 16, **words: Any) -> Prepared:
    settings = SETTINGS | {name.replace("__", "."): value for name, value in words.items()}
    config = load_config("kdep", settings.items())
    samples = open_samples(config.data)
    return prepare(Adapted(config), samples, teacher=vit(32), student=vit(student_width))


@pytest.fixture
def shown(monkeypatch) -> Callable[..., list[Batch]]:
    """The batches of the pass, of a rank and behind a picture."""

    def pass_(run: Prepared, rank: int = 0, size: int = 1, after: int = -1) -> list[Batch]:
        found: list[Batch] = []

        def fit_targets(method: Any, target_fit: Any, batches: Any, **_: Any) -> str:
            found.extend(batches(after))
            return ""

        monkeypatch.setattr(pretraining, "fit_targets", fit_targets)
        world = World(rank, size, torch.device("cpu"))
        pretraining._fit_targets(replace(run, world=world), run.target_fit, None)  # type: ignore[arg-type]
        return found

    return pass_


def ids(batches: list[Batch]) -> list[int]:
    return [i for batch in batches for i in batch.ids.tolist()]


def test_ranks_share_the_training_pictures_and_no_others(shown):
    run = prepared()
    assert len(run.held_out) == 5
    for size in (1, 2, 3):
        seen = [ids(shown(run, rank, size)) for rank in range(size)]
        assert sorted(i for mine in seen for i in mine) == run.train.tolist()
        assert all(mine == sorted(mine) for mine in seen)
        for mine in seen:
            rank = seen.index(mine)
            assert ids(shown(run, rank, size, after=mine[2])) == mine[3:]


@pytest.mark.parametrize("view", ["train", "eval"])
def test_the_pass_sees_the_view_that_was_asked_for(shown, view):
    run = prepared(method__fit_view=view)
    crop = run.reading.train if view == "train" else run.reading.test
    wanted = eval_batches(
        run.reading.source,
        run.train,
        crop,
        batch_size=64,
        workers=0,
        broken=BrokenFiles(99, 1.0),
    )
    (expected,) = list(wanted)
    found = torch.cat([batch.pixels for batch in shown(run)])
    assert torch.equal(found, expected.pixels)


def test_a_rank_is_that_of_the_trained_pictures():
    """22 of 27 pictures are trained on, which leave 21 directions; all of them would leave 26."""
    with pytest.raises(UserError, match="rank 21 on 22 pictures"):
        prepared(student_width=24)


OTHER_RUNS = {
    "data.crop_scale": [0.5, 1.0],
    "data.crop_ratio": [0.9, 1.1],
    "data.flip": 0.0,
    "data.interpolation": "bilinear",
    "data.held_out": 0.3,
    "method.weight": 2.0,
    "optim.lr": 0.1,
    "optim.clip_norm": 1.0,
    "seed": 3,
    "train.epochs": 7,
    "train.global_batch_size": 9,
    "train.precision": "bf16",
}
THE_SAME_RUN = {
    "data.workers": 1,
    "data.timeout": 9.0,
    "data.max_broken": 0.5,
    "train.micro_batch_size": 11,
    "train.checkpoint_steps": 2,
    "train.evaluate_every": 2,
    "train.knn_probe": False,
    "train.loggers": [],
}


def test_what_makes_a_run_another_one():
    def of(**words: Any) -> dict[str, Any]:
        settings = SETTINGS | {"optim.warmup_epochs": 0, **words}
        return fingerprint(load_config("kdep", settings.items()))

    usual = of()
    for name, value in OTHER_RUNS.items():
        assert of(**{name: value}) != usual, name
    for name, value in THE_SAME_RUN.items():
        assert of(**{name: value}) == usual, name


@pytest.mark.parametrize(
    ("key", "value", "beside"),
    [
        ("optim.milestones", [30], {"optim.schedule": "multistep"}),
        ("optim.pieces", [[0, 1.0]], {"optim.schedule": "piecewise"}),
        ("optim.div_factor", 5, {"optim.schedule": "1cycle"}),
        ("optim.weight_decay_end", 0.4, {}),
        ("student.qk_scale", 0.2, {}),
        ("student.maps", ["a"], {"student.model": "torchvision/resnet18"}),
        ("students.a.qk_scale", 0.2, {"students.a.model": "vit_tiny"}),
        ("method.labels_weight", 1.0, {}),
    ],
)
def test_a_later_setting_at_its_default_leaves_older_runs_as_they_are(key, value, beside):
    def of(**settings):
        words = {"data.train": "pictures", "teacher": "x", **beside, **settings}
        found = fingerprint(load_config("kdep", words.items()))
        for part in key.split(".")[:-1]:
            found = found[part]
        return found

    last = key.rpartition(".")[2]
    if not key.startswith(("optim.milestones", "optim.pieces")):  # which their schedules need
        assert last not in of()
    assert of(**{key: value})[last] == value
    usual = fingerprint(load_config("kdep", {"data.train": "x", "teacher": "x"}.items()))
    later = {name for names in _LATER.values() for name in names}
    assert not later & {*usual["optim"], *usual["student"], *usual["data"], *usual["method"]}
