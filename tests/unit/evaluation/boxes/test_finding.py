"""Detection of squares: views, heads, what is learned, and how it is counted."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from squares import COLOURS, coco, squares
from torch import nn

from vistill.config.boxes import BOX_RECIPES, BoxesConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.data.broken import BrokenFiles
from vistill.data.loader import Request
from vistill.errors import UserError
from vistill.evaluation.boxed import BoxedStream
from vistill.evaluation.boxes import shapes
from vistill.evaluation.boxes.annotations import Things, find_boxed
from vistill.evaluation.boxes.detector import build_detector
from vistill.evaluation.boxes.find import evaluate_boxes, found_on, labelled
from vistill.evaluation.boxes.scores import BoxScore, Found, Precision, precision_of
from vistill.evaluation.boxes.views import ThingsBatch, ThingsReader
from vistill.evaluation.retrieval import Figure
from vistill.evaluation.segmentation.layouts import PairSource
from vistill.heads.pyramids import COARSEST, LastMapPyramid, MapsPyramid, steps_of
from vistill.heads.regions import Anchors, SeededSampler
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.vit import VisionTransformer
from vistill.random import Stream
from vistill.runs.results import EvaluateResult

TINY = {"channels": 16, "regions": 16, "anchors": 4.0, "distort": False}
SIZE = (48, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    coco(root / "train.json", root / "images", squares(12))
    coco(root / "val.json", root / "images", squares(6, seed=1))
    return root


def opened(folder, **told):
    return [
        (PairSource(str(folder), part.pictures), part)
        for part in find_boxed(folder, BoxesConfig(**told))
    ]


def vit(size=SIZE, patch: int = 8) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=size, patch_size=patch, embed_dim=24, depth=2, num_heads=3
    ).eval()


def cnn() -> PooledBackbone:
    torch.manual_seed(0)
    stages = []
    for before, after in pairwise((3, 8, 12, 16)):
        stages.append(
            nn.Sequential(
                nn.Conv2d(before, after, 4 if before == 3 else 2, 4 if before == 3 else 2),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
        )
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1))
    return PooledBackbone(net, image_size=SIZE)


@pytest.mark.parametrize("training", [True, False])
def test_boxes_and_shapes_move_with_their_picture(folder, training):
    options = BoxesConfig(masks=True, scale=(0.5, 1.8), distort=False)
    (source, boxed), _ = opened(folder, masks=True)
    reader = ThingsReader(source, boxed, options, (40, 56), 3, training=training)
    seen = 0
    for epoch in range(3):
        answer = reader(Request(epoch, np.arange(12)))
        assert answer["pixels"].shape == (12, 3, 40, 56)
        batch = reader.batch(**{k: v for k, v in answer.items() if k not in ("asked", "broken")})
        for number in range(12):
            things = batch.of(number)
            for i, (x0, y0, x1, y1) in enumerate(things["boxes"].round().int().tolist()):
                inside = batch.pixels[number, :, y0:y1, x0:x1].float().flatten(1)
                if inside.shape[1] < 12:
                    continue
                colour = torch.from_numpy(COLOURS[things["classes"][i] - 1]).float()
                right = (inside - colour[:, None]).abs().amax(dim=0) < 60
                assert right.float().mean() > 0.6
                seen += 1
                if training:
                    mask = things["masks"][i].bool()
                    assert abs(int(mask.sum()) - inside.shape[1]) <= 2 * sum(mask.shape)
                    rows, columns = (mask.any(dim=d).nonzero()[:, 0] for d in (1, 0))
                    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                    assert max(abs(a - b) for a, b in zip(edges, (x0, y0, x1, y1), strict=True)) < 2
    assert seen > 60


def test_a_picture_of_another_size_than_its_boxes_say_is_broken(folder):
    (source, boxed), _ = opened(folder)
    odd = boxed.take([0])
    odd.things[0].__dict__["size"] = (1, 2)
    try:
        answer = ThingsReader(source, odd, BoxesConfig(), SIZE, 0, training=False)(
            Request(0, np.array([0]))
        )
    finally:
        odd.things[0].__dict__["size"] = (48, 64)
    assert answer["broken"] == [(source.sample_name(0), "it is 64×48 pixels, and its boxes are for "
                                 "2×1")]  # fmt: skip


@pytest.mark.parametrize(("patch", "size"), [(8, (48, 64)), (14, (56, 70))])
def test_steps_of_a_plain_vit(patch, size):
    made = build_detector(vit(size, patch), 3, BoxesConfig(**TINY), size, 0)
    assert isinstance(made.neck, LastMapPyramid)
    pyramid = made.neck(made.maps(torch.zeros(1, 3, *size)))
    rows, columns = size[0] // patch, size[1] // patch
    shapes = [tuple(one.shape[2:]) for one in pyramid.values()]
    halves = (-(-rows // 2), -(-columns // 2))
    assert shapes[:4] == [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), halves]
    steps = steps_of(pyramid, size)
    assert steps[:3] == [(patch / 4,) * 2, (patch / 2,) * 2, (patch,) * 2]
    assert steps[4] == (2 * steps[3][0], 2 * steps[3][1])
    pool = made.heads.roi_heads.box_roi_pool
    assert pool.scales[:3] == pytest.approx([4 / patch, 2 / patch, 1 / patch])
    side = 14 * patch  # of a region that is cut out of the third map
    levels = [int(pool.map_levels([torch.tensor([[0.0, 0.0, s, s]])])) for s in (1, side, 4 * side)]
    assert levels == [0, 2, 3]


def test_anchors_keep_their_places():
    steps = [(3.5, 3.5), (7.0, 7.0)]
    anchors = Anchors(steps, 8)
    maps = [torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 8, 8)]
    images = type("Images", (), {"image_sizes": [(56, 56)]})()
    (found,) = anchors(images, maps)
    centres = (found[:, :2] + found[:, 2:]) / 2
    fine = centres[: 3 * 256].view(16, 16, 3, 2)
    assert fine[5, 9].tolist() == [[9 * 3.5, 5 * 3.5]] * 3
    assert centres[3 * 256 :].view(8, 8, 3, 2)[7, 2].tolist() == [[14.0, 49.0]] * 3
    square = found[1] - found[1].roll(2)
    assert square[2:].tolist() == [28.0, 28.0]


def test_the_sampler_takes_what_torchvision_s_would():
    sampler = SeededSampler(20, 0.25, Stream.REGIONS)
    for positives, negatives in ((3, 100), (50, 100), (50, 4), (0, 9), (0, 0)):
        labels = torch.cat([torch.ones(positives), torch.zeros(negatives), -torch.ones(5)])
        sampler.seed = torch.tensor([7])
        (yes,), (no,) = sampler([labels])
        assert int(yes.sum()) == min(positives, 5)
        assert int(no.sum()) == min(negatives, 20 - min(positives, 5))
        assert bool((labels[yes.bool()] >= 1).all())
        assert bool((labels[no.bool()] == 0).all())
        assert torch.equal(sampler([labels])[1][0], no)
    labels = torch.zeros(1000)
    drawn = torch.zeros(1000)
    for seed in range(200):
        sampler.seed = torch.tensor([seed])
        drawn += sampler([labels])[1][0]
    assert drawn.view(10, 100).sum(dim=1).sub(400).abs().max() < 80


def batches(data, options, size=SIZE, micro=4):
    source, boxed = data
    reader = ThingsReader(source, boxed, options, size, 5, training=True)
    broken = BrokenFiles(12, 0.5)
    stream = BoxedStream(
        reader, global_batch_size=4, micro_batch_size=micro, workers=0, broken=broken
    )
    found = list(stream.iterate(0, 1))
    stream.close()
    return found


@pytest.mark.parametrize(("backbone", "head"), [(vit, "linear"), (cnn, "convolutional")])
def test_micro_batches_change_nothing(folder, backbone, head):
    options = BoxesConfig(**TINY, masks=True, head=head, norms="frozen", drop_path=0.2)
    data = opened(folder, masks=True)[0]
    made = build_detector(backbone(), 3, options, SIZE, 0).train()
    assert isinstance(made.neck, LastMapPyramid if backbone is vit else MapsPyramid)
    (whole,), parts = batches(data, options), batches(data, options, micro=1)
    together = made(whole)
    assert set(together.terms) == {"objectness", "rpn_box_reg", "classifier", "box_reg", "mask"}
    together.total.backward()
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    assert all(name in gradients for name, p in made.named_parameters() if p.requires_grad)
    made.zero_grad()
    totals = [made(part).total / 4 for part in parts]
    sum(totals).backward()
    torch.testing.assert_close(sum(totals), together.total, rtol=1e-5, atol=1e-6)
    for name, parameter in made.named_parameters():
        if name in gradients:
            difference = (parameter.grad - gradients[name]).norm()
            assert difference <= 1e-3 * gradients[name].norm() + 1e-6, name


@pytest.mark.parametrize("head", ["linear", "convolutional"])
def test_pictures_without_things_reach_every_parameter(head):
    """As ranks that wait for one another's gradients need."""
    made = build_detector(vit(), 3, BoxesConfig(**TINY, masks=True, head=head), SIZE, 0).train()
    numbers = torch.arange(2)
    batch = ThingsBatch(
        torch.rand(2, 3, *SIZE),
        numbers,
        numbers,
        inputs={"seen": torch.tensor([SIZE, (20, 64)]), "whole": torch.tensor([SIZE, (20, 64)])},
        boxes=torch.zeros(0, 5),
        classes=torch.zeros(0, dtype=torch.long),
        masks=torch.zeros(0, *SIZE, dtype=torch.uint8),
    )
    total = made(batch).total
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


def test_a_size_that_does_not_suit():
    with pytest.raises(UserError, match=r"^boxes.size=\[50,64\] does not suit .*; boxes.size=64"):
        build_detector(vit(), 3, BoxesConfig(**TINY), (50, 64), 0)


def test_frozen_norms_stay_as_they_came(folder):
    options = BoxesConfig(**TINY, norms="frozen")
    made = build_detector(cnn(), 3, options, SIZE, 0).train()
    norms = [part for part in made.student.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert not any(part.training or part.weight.requires_grad for part in norms)
    assert made.student.module[0][0].weight.requires_grad
    trained = build_detector(cnn(), 3, BoxesConfig(**TINY), SIZE, 0)
    norms = [part for part in trained.student.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(int(part.num_batches_tracked) == 0 for part in norms)
    assert all(part.weight.requires_grad for part in norms)


@pytest.mark.slow
def test_squares_are_found(folder):
    options = BoxesConfig(
        **TINY, size=SIZE, epochs=1, min_steps=60, global_batch_size=4, lr=3e-3, layer_decay=1.0,
        drop_path=0.0, scale=(0.9, 1.2),
    )  # fmt: skip
    config = EvaluateConfig(device="cpu", workers=0, boxes=options)
    train, test = opened(folder)
    (score,) = evaluate_boxes(vit(), train, test, config, progress=False)
    assert score.boxes.half.value > 25
    assert score.boxes.half.low < score.boxes.half.value < score.boxes.half.high
    assert set(score.boxes.by_class) == {"blue", "green", "red"}


def test_an_evaluation_with_shapes(folder):
    options = BoxesConfig(
        **TINY, masks=True, size=SIZE, epochs=1, global_batch_size=2, train_pictures=4,
        drops=(0.5, 0.6), least_score=0.0, precision="bf16",
    )  # fmt: skip
    config = EvaluateConfig(device="cpu", workers=0, boxes=options)
    model = vit()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train, (_, boxed) = opened(folder, masks=True)
    few = boxed.take([1, 2])
    test = (PairSource("few", few.pictures), few)
    (score,) = evaluate_boxes(model, train, test, config, progress=False)
    assert (score.pictures, score.train_pictures, score.broken) == (2, 4, ())
    assert score.masks is not None
    assert score.masks.by_class.keys() == score.boxes.by_class.keys() == {"blue", "green", "red"}
    assert "shapes: mAP" in str(score)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_is_found_is_in_the_picture_s_own_pixels(folder):
    options = BoxesConfig(**TINY, least_score=0.0)
    _, (source, boxed) = opened(folder)
    made = build_detector(vit((24, 32)), 3, options, (24, 32), 0).eval()
    reader = ThingsReader(source, boxed, options, (24, 32), 0, training=False)
    answer = reader(Request(0, np.array([1])))
    batch = reader.batch(**{k: v for k, v in answer.items() if k not in ("asked", "broken")})
    assert batch.inputs["seen"].tolist() == [[24, 27]]
    with torch.no_grad():
        found = found_on(made, batch)
    assert found.whole == (56, 64)
    assert found.boxes[:, 2].max() == pytest.approx(64)
    assert found.boxes[:, 3].max() == pytest.approx(56)


def test_drawn_pictures_lie_within_one_another(folder):
    data = opened(folder)[0]
    chosen = {n: set(labelled(data, BoxesConfig(train_pictures=n), 3)) for n in (1, 5, 12)}
    assert [len(chosen[n]) for n in (1, 5, 12)] == [1, 5, 12]
    assert chosen[1] < chosen[5] < chosen[12]
    assert chosen[5] != set(labelled(data, BoxesConfig(train_pictures=5), 4))
    assert labelled(data, BoxesConfig(train_share=0.25), 3) == labelled(
        data, BoxesConfig(train_pictures=3), 3
    )
    with pytest.raises(UserError, match="train_pictures=13 is more than the 12 pictures"):
        labelled(data, BoxesConfig(train_pictures=13), 0)


def test_precision_by_hand():
    """Two pictures, three things of one class: two found, one of them loosely, and one too many."""
    truth = [
        things([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0]),
        things([[0, 0, 10, 10]], [0]),
        things([[5, 5, 9, 9]], [1], unasked=True),
    ]
    found = [
        Found((40, 40), np.array([[0, 0, 10, 10], [50, 50, 60, 60]]), np.zeros(2, int),
              np.array([0.9, 0.8])),
        Found((40, 40), np.array([[0, 0, 10, 7.0]]), np.zeros(1, int), np.array([0.7])),
        Found((40, 40), np.array([[5, 5, 9, 9.0]]), np.ones(1, int), np.array([0.9])),
    ]  # fmt: skip
    told = precision_of(found, truth, ["a", "b"])
    # At 0.5: precision 1 up to a recall of 1/3, 2/3 up to one of 2/3; of 101 places 34 and 33.
    assert told.half.value == pytest.approx(100 * (34 + 33 * 2 / 3) / 101)
    assert told.three_quarters.value == pytest.approx(100 * 34 / 101)
    strict = 100 * 34 / 101
    assert told.mean.value == pytest.approx((5 * told.half.value + 5 * strict) / 10)
    assert set(told.by_class) == {"a"}
    assert told.mean.low <= told.mean.value <= told.mean.high
    nothing = [Found(one.whole, one.boxes[:0], one.classes[:0], one.scores[:0]) for one in found]
    assert precision_of(nothing, truth, ["a", "b"]).half == (0.0, 0.0, 0.0)


def things(boxes, classes, *, unasked=False) -> Things:
    flags = np.full(len(boxes), unasked)
    return Things((40, 40), np.array(boxes, np.float32), np.array(classes), flags & False, flags)


def test_without_its_extra(monkeypatch):
    monkeypatch.setattr(shapes, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vistill\[detection\]'"):
        shapes.require_coco()


@pytest.mark.parametrize("recipe", BOX_RECIPES)
def test_every_recipe_builds(recipe):
    options = BoxesConfig(recipe=recipe)
    narrow = options.model_copy(update={"channels": 8, "regions": 8})
    backbone = cnn() if recipe.startswith("kdep") else vit()
    made = build_detector(backbone, 3, narrow, SIZE, seed=0)
    assert made.heads.roi_heads.has_mask() == options.masks
    assert COARSEST in made.neck(made.maps(torch.zeros(1, 3, *SIZE)))
    if recipe.startswith("vitdet"):
        scales = {group["lr_scale"] for group in made.groups()}
        assert min(scales) == pytest.approx(options.layer_decay**3)


def test_shapes_in_every_way_of_writing_them():
    wanted = np.zeros((6, 8), np.uint8)
    wanted[1:4, 2:5] = 1
    (packed,) = shapes.packed(wanted[None])
    polygons = [[2, 1, 5, 1, 5, 4, 2, 4]]
    two = [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 5, 1, 5, 4, 4, 4]]
    # Down the columns: 13 off, 3 on, 3 off, 3 on, 3 off, 3 on, the rest off.
    runs = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    for shape in (polygons, two, runs, packed):
        assert np.array_equal(shapes.mask_of(shape, (6, 8)), wanted)


def test_what_is_printed_and_written():
    one, two = (
        BoxScore(
            seed,
            Precision(Figure(a, 1, 3), Figure(b, 2, 6), Figure(0, 0, 1), by_class),
            None,
            20,
            7,
            1.5,
            broken,
        )
        for seed, a, b, by_class, broken in (
            (0, 2.0, 4.0, {"cell": (2.0, 4.0)}, ("x.jpg",)),
            (1, 3.0, 5.0, {"cell": (4.0, 6.0)}, ()),
        )
    )
    result = EvaluateResult(config={}, weights="here", boxes=(one, two))
    assert str(result).splitlines() == [
        "mAP 2.0 (1.0 – 3.0) %, mAP50 4.0 (2.0 – 6.0) %, mAP75 0.0 (0.0 – 1.0) %; 1 classes, 20 "
        "pictures to learn from, 7 tested, seed 0",
        "mAP 3.0 (1.0 – 3.0) %, mAP50 5.0 (2.0 – 6.0) %, mAP75 0.0 (0.0 – 1.0) %; 1 classes, 20 "
        "pictures to learn from, 7 tested, seed 1",
        "AP % of boxes by class, and at 0.5:",
        "  cell                   3.0   5.0",
        "95 % intervals by bootstrap over test pictures",
        "left out, since unreadable: 1: x.jpg",
    ]
    told = json.loads(result.to_json())["boxes"][1]["boxes"]
    assert told == [[3.0, 1, 3], [5.0, 2, 6], [0, 0, 1], {"cell": [4.0, 6.0]}]


def test_loader_processes_change_nothing(folder):
    options = BoxesConfig(masks=True)
    source, boxed = opened(folder, masks=True)[0]
    found = []
    for workers in (0, 2):
        reader = ThingsReader(source, boxed, options, SIZE, 5, training=True)
        stream = BoxedStream(
            reader,
            global_batch_size=4,
            micro_batch_size=2,
            workers=workers,
            broken=BrokenFiles(12, 0.5),
        )
        found.append(list(stream.iterate(1, 3)))
        stream.close()
    for one, other in zip(*found, strict=True):
        for name in ("pixels", "boxes", "classes", "masks", "seeds", "ids"):
            assert torch.equal(getattr(one, name), getattr(other, name))
