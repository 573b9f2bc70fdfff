"""Errors on corrupted pictures, and classifiers that are tested on some of their classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quietly import settings
from ranks import session

import vistill
from vistill.config.robustness import COMMON, EXTRA, RobustnessConfig
from vistill.data.corrupted import CorruptedViews, Photographs
from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.known_classes import known_classes
from vistill.evaluation.metrics import wilson_interval
from vistill.evaluation.robustness import ALEXNET, Hits, alexnet_table, robustness_score
from vistill.evaluation.saved_classifier import save_classifier
from vistill.models.imagenet_names import imagenet_classes
from vistill.models.vit import VisionTransformer

TWO = RobustnessConfig(corruptions=("fog", "snow", "spatter"), severities=(1, 4))
SMALL = {
    "device": "cpu",
    "workers": 0,
    "robustness.corruptions": ["contrast", "gaussian_noise"],
    "robustness.severities": [1, 5],
    "robustness.size": 32,
}


def classifier(folder: Path, classes: list[str], seed: int) -> Path:
    torch.manual_seed(seed)
    vit = VisionTransformer(image_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    made = Classifier(vit, len(classes), seed=seed)
    torch.nn.init.normal_(made.head.weight)
    save_classifier(made.eval(), folder, classes, None)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of two classes, one of which is broken, and two classifiers of four."""
    folder = tmp_path_factory.mktemp("robust")
    rng = np.random.default_rng(0)
    for name, tint in (("blue", 2), ("red", 0)):
        (folder / "pictures" / name).mkdir(parents=True)
        for n in range(5):
            noise = rng.integers(0, 200, (24, 20, 3))
            noise[..., tint] += 50
            Image.fromarray(noise.astype(np.uint8)).save(folder / "pictures" / name / f"{n}.png")
    (folder / "pictures" / "red" / "4.png").write_bytes(b"no picture")
    for seed in (0, 1):
        classifier(folder / f"model{seed}", ["black", "blue", "green", "red"], seed)
    return folder


def measured(place: Path, model: str = "model0", **overrides):
    return vistill.evaluate(
        place / model,
        data=place / "pictures",
        protocols=["robustness"],
        overrides=SMALL | {f"robustness.{name}": value for name, value in overrides.items()},
    )


# ---- arithmetic


def test_means_and_ratios_by_hand():
    right = np.array(
        # as it is; fog 1, 4; snow 1, 4; spatter 1, 4
        [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0]]
    )
    other = np.ones_like(right)
    other[:2, 1:3] = 0  # its error in fog is a half; in snow and spatter it makes none
    hits = Hits(right > 0, np.arange(4), ("x.png",))
    score = robustness_score(
        hits, TWO, Hits(other > 0, np.arange(4), ()), among=None, photographs=Photographs()
    )
    assert score.clean == pytest.approx((25, *(100 * one for one in wilson_interval(1, 4))))
    values = {name: [one.value for one in row.values()] for name, row in score.errors.items()}
    assert values == {"fog": [25, 75], "snow": [25, 75], "spatter": [100, 100]}
    assert [one.value for one in score.corruptions.values()] == [50, 50, 100]
    assert (score.mean.value, score.averaged) == (50, 2)  # spatter is none of the 15
    assert score.relative.value == pytest.approx(100)
    assert {*score.by_reference} == {"fog"}
    assert score.mean.low <= 50 <= score.mean.high
    assert (score.pictures, score.frost, score.broken) == (4, None, ("x.png",))
    alone = robustness_score(hits, TWO, None, among=None, photographs=Photographs())
    assert (alone.relative, alone.by_reference) == (None, {})
    table = {name: {1: 0.25, 4: 0.25} for name in TWO.corruptions}
    halves = robustness_score(hits, TWO, table, among=None, photographs=Photographs())
    assert halves.relative.value == pytest.approx(200)
    assert halves.by_reference["spatter"] == (400, 400, 400)


def test_models_are_compared_on_the_pictures_that_both_can_read():
    ids = np.arange(6)
    first = Hits(np.zeros((6, 7), dtype=bool), ids, ())
    second = Hits(np.zeros((4, 7), dtype=bool), ids[2:], ())
    score = robustness_score(first, TWO, second, among=None, photographs=Photographs())
    assert (score.pictures, score.relative.value) == (4, 100)


def test_alexnet_is_for_imagenet():
    known = known_classes(named_source([f"{n:04}" for n in range(1000)]), 1000, None, "x", "data")
    table = alexnet_table(RobustnessConfig(), known)
    assert table["fog"] == dict.fromkeys((1, 2, 3, 4, 5), 0.819324)
    assert 100 * np.mean([*ALEXNET.values()]) == pytest.approx(78.8, abs=0.1)
    for options, message in (
        (RobustnessConfig(corruptions=EXTRA), "not published for speckle_noise"),
        (RobustnessConfig(severities=(1, 2)), "all five severities together"),
    ):
        with pytest.raises(UserError, match=message):
            alexnet_table(options, known)
    few = known_classes(named_source(["tench"]), 1000, None, "x", "data")
    with pytest.raises(UserError, match=r"1,000 classes, and 1 are compared"):
        alexnet_table(RobustnessConfig(), few)


# ---- views


def test_a_corruption_of_a_picture_depends_on_nothing_else():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)

    def views(cells, seed=0, quality=None):
        view = CorruptedViews((16, 24), 32, cells, quality, Photographs(), seed, "bicubic")
        return view(image, np.random.default_rng(7))

    alone, among = (
        views([("snow", 2)]),
        views([("fog", 1), ("snow", 1), ("snow", 2)]),
    )
    assert [tuple(view.shape) for view in among] == [(3, 16, 24)] * 4
    torch.testing.assert_close(alone[0], among[0])
    torch.testing.assert_close(alone[1], among[3])
    assert not torch.equal(among[2], among[3])
    assert not torch.equal(views([("snow", 2)], seed=1)[1], alone[1])
    assert not torch.equal(views([("snow", 2)], quality=20)[1], alone[1])


def test_two_loader_processes_and_any_batch_give_the_same_errors(place):
    one = measured(place).robustness
    again = vistill.evaluate(
        place / "model0",
        data=place / "pictures",
        protocols=["robustness"],
        overrides=SMALL | {"workers": 2, "batch_size": 13},
    ).robustness
    assert one == again
    assert (one.pictures, one.broken) == (9, ("red/4.png",))
    assert one.among == (2, 4)


def table(place: Path, out: Path) -> int:
    found = measured(place, reference=str(place / "model1"))
    (out / f"{torch.distributed.get_rank() if out.name == '2' else 0}.json").write_text(
        found.to_json()
    )
    return 0


@pytest.mark.slow
def test_two_ranks_give_the_table_of_one(place, tmp_path):
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        out.mkdir()
        done = session([out], ranks, lambda out=out: table(place, out))
        assert done.returncode == 0, done.stderr
        found += [json.loads((out / f"{n}.json").read_text())["robustness"] for n in range(ranks)]
    assert found[0] == found[1] == found[2]
    assert found[0]["relative"] is not None


# ---- relative to another


def test_relative_to_a_model_and_to_its_file(place, tmp_path):
    saved = tmp_path / "model1.json"
    result = measured(place, "model1")
    saved.write_text(result.to_json())
    by_model = measured(place, reference=str(place / "model1"))
    by_file = measured(place, reference=str(saved))
    assert by_model.robustness.relative.value == pytest.approx(by_file.robustness.relative.value)
    itself = measured(place, reference=str(place / "model0")).robustness.relative
    assert itself == (100, 100, 100)
    text = str(by_model)
    assert f"mean corruption error relative to {place / 'model1'}: " in text
    assert "among the 2 classes of the data alone, of 4 (among=all: of all)" in text
    assert text.splitlines()[0].split() == ["error", "%", "1", "5", "mean", "of", "reference", "%"]
    assert str(result).splitlines()[1].startswith("contrast ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"reference": "{}/model1.json"}, "is no result of --protocols robustness"),
        ({"reference": "{}/modle1"}, "does not exist; did you mean"),
        ({"reference": "alexnet"}, "1,000 classes, and 2 are compared"),
        ({"corruptions": ["fgo"]}, "unknown corruption 'fgo'; did you mean 'fog'"),
        ({"severities": [6]}, "robustness.severities"),
        ({"frost": "{}/none", "corruptions": ["frost"]}, "is no folder of photographs"),
        ({"frost": "{}/pictures", "corruptions": ["frost"]}, "holds no .png and no .jpg"),
    ],
)
def test_mistakes_are_told_before_any_work(place, overrides, message):
    given = {
        key: value.format(place) if isinstance(value, str) else value
        for key, value in overrides.items()
    }
    with pytest.raises(UserError, match=message):
        measured(place, **given)


def test_a_table_has_to_hold_what_is_asked_for(place, tmp_path):
    saved = tmp_path / "model1.json"
    saved.write_text(measured(place, "model1", severities=[1]).to_json())
    with pytest.raises(UserError, match="was not measured under contrast of severity 5"):
        measured(place, reference=str(saved))


def test_groups_of_corruptions():
    assert RobustnessConfig(corruptions="all").corruptions == COMMON + EXTRA
    assert RobustnessConfig(corruptions=["extra", "fog"]).corruptions == (*EXTRA, "fog")


# ---- some of the classes


class named_source:
    """What `known_classes` asks of a source."""

    name, unlabelled = "pictures", None

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self.labels = np.array([*range(len(classes)), -1])


@pytest.mark.parametrize(
    ("classes", "outputs", "names", "among", "truth", "compared"),
    [
        (["b", "d"], 4, ["a", "b", "c", "d"], "data", [0, 1, -1], [1, 3]),
        (["b", "d"], 4, ["a", "b", "c", "d"], "all", [1, 3, -1], None),
        (["b", "d"], 4, ["d", "c", "b", "a"], "data", [1, 0, -1], [0, 2]),
        (["a", "b"], 2, ["b", "a"], "data", [1, 0, -1], None),
        (["x", "y"], 2, None, "data", [0, 1, -1], None),
        (["1", "7"], 9, None, "data", [0, 1, -1], [1, 7]),
        (["n01440764", "n03888257"], 1000, None, "data", [0, 1, -1], [0, 701]),
        (["tench", "parachute, chute"], 1000, None, "all", [0, 701, -1], None),
        (["3", "10"], 1000, None, "data", [0, 1, -1], [3, 10]),
    ],
)
def test_classes_are_matched_by_name(classes, outputs, names, among, truth, compared):
    known = known_classes(named_source(classes), outputs, names, "m", among)
    assert known.truth.tolist() == truth
    assert (None if known.outputs is None else known.outputs.tolist()) == compared
    assert known.indices.tolist() == [0, 1]
    width = len(classes) if compared else outputs
    assert known.compared(torch.zeros(1, outputs)).shape == (1, width)


@pytest.mark.parametrize(
    ("classes", "outputs", "names", "message"),
    [
        (["b", "dd"], 4, ["a", "b", "c", "d"], "m does not know the class 'dd' of pictures"),
        (["n01440764", "n0388825"], 1000, None, "'n0388825' .*; did you mean 'n03888257'"),
        (["x", "y"], 3, None, "tells 3 classes apart without naming them, and pictures has 2"),
        (["n01440764", "tench"], 1000, None, "one class of m under two names"),
    ],
)
def test_a_class_that_nobody_knows(classes, outputs, names, message):
    with pytest.raises(UserError, match=message):
        known_classes(named_source(classes), outputs, names, "m", "data")


def test_words_of_several_classes_name_none():
    names = imagenet_classes(1000)
    assert len({*names.values()}) == 1000
    assert "crane" not in names  # the bird, and the machine
    assert imagenet_classes(10) == {}


@pytest.mark.parametrize("among", ["data", "all"])
def test_a_classifier_is_tested_on_some_of_its_classes(place, among):
    result = vistill.evaluate(
        place / "model0",
        data=place / "pictures",
        protocols=["test"],
        overrides={"workers": 0, "device": "cpu", "among": among},
    )
    (score,) = result.scores
    assert score.among == ((2, 4) if among == "data" else None)
    assert ("among the 2 classes" in str(result)) == (among == "data")
    ours = vistill.load_classifier(place / "model0")
    assert ours.names == ["black", "blue", "green", "red"]
    if among == "data":
        everything = vistill.evaluate(
            place / "model0",
            data=place / "pictures",
            protocols=["test"],
            overrides={"workers": 0, "device": "cpu", "among": "all"},
        )
        assert score.top1 >= everything.scores[0].top1


def test_the_settings_say_where_they_have_a_use():
    idle = settings(protocols=("knn",)).idle(None)
    assert "among" in idle
    assert "robustness" in idle
    assert "among" not in settings(protocols=("robustness",)).idle(None)
    assert "frames" in settings(protocols=("robustness",)).idle(None)
