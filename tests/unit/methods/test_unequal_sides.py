"""Every method with two sides that differ in everything, against plain arithmetic: what each side
sees, what the target is, and what the loss makes of both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from building import build
from torch import Tensor, nn
from unequal import CLIPS, OTHERS, OURS, THEIRS, Watched, batch, said_by, seen_by, student, teacher

from vistill.augment.jitter import color_jitter
from vistill.batch import Batch
from vistill.config.methods import CustomConfig
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout
from vistill.methods.base import Method
from vistill.methods.ingredients import Ingredients
from vistill.methods.multi_student import MultiStudent
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Normalization, Tap
from vistill.random import Stream, per_sample_uniform
from vistill.runs.custom import build_custom

DECODER = {"embed_dim": 8, "depth": 1, "num_heads": 2}
CUSTOM = """
import torch
from vistill.methods.base import Method, weighted
class Pooled(Method):
    def forward(self, batch):
        with torch.no_grad():
            tap = self.theirs.tap("norm")
            target = self.theirs.see(batch, [tap])[tap].float().mean(1)[:, :16]
        tap = self.ours.tap("norm")
        ours = self.ours.see(batch, [tap])[tap].mean(1)
        return weighted({"pooled": (2.0, (ours - target).square().mean())})
def build(given):
    return Pooled(given.student, given.teacher)
"""


def custom(folder: Path, *models: Any) -> Method:
    (folder / "mine.py").write_text(CUSTOM)
    config = CustomConfig(builder=f"{folder / 'mine.py'}:build")
    return build_custom(Ingredients("custom", *models, config))


def one_prefix(**changes: Any) -> Any:
    """The teacher of methods that compare token by token: one prefix token, as the student has."""
    return teacher(distillation_token=False, **changes)


def made(name: str, folder: Path) -> Method:
    """Every method once, without a random view."""
    clips = {"class_token": False, **CLIPS}
    match name:
        case "mae":
            return build("mae", student(), decoder=DECODER)
        case "videomae":
            return build("videomae", student(**clips), mask_ratio=0.75, decoder=DECODER)
        case "tinymim":
            return build("tinymim", student(), one_prefix(), student_color_jitter=None)
        case "feature_distillation":
            return build("feature_distillation", student(), teacher())
        case "kdep":
            plain = {"color_jitter": None, "lighting_std": 0, "align": "channel_random"}
            return build("kdep", student(), teacher(), **plain)
        case "logit_kd":
            plain = {"color_jitter": None, "lighting_std": 0, "labels_weight": 0}
            return build("logit_kd", student(), teacher(num_classes=7), **plain)
        case "relation_kd":
            plain = {"color_jitter": None, "lighting_std": 0}
            return build("relation_kd", student(), teacher(), **plain)
        case "amd":
            return build("amd", student(), teacher(), reconstruction={"decoder": DECODER})
        case "amd of clips":
            models = student(**clips), teacher(**CLIPS, distillation_token=False)
            return build("amd", *models, reconstruction={"decoder": DECODER})
        case "custom":
            return custom(folder, student(), teacher())
        case "several":
            theirs = teacher()
            pupils = {"a": student(), "b": student(embed_dim=8, depth=1, normalization=OTHERS)}
            both = {n: build("feature_distillation", s, theirs) for n, s in pupils.items()}
            return MultiStudent(both)
    raise AssertionError(name)


METHODS = ["mae", "videomae", "tinymim", "feature_distillation", "kdep", "logit_kd", "relation_kd",
           "amd", "amd of clips", "custom", "several"]  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_each_side_sees_the_picture_in_its_own_way(name, training, tmp_path):
    method = made(name, tmp_path).train(training)
    pictures = batch(frames=4 if "clips" in name or name == "videomae" else None)
    sides = [*method.exports.values()] + ([] if method.teacher is None else [method.teacher])
    watched = [Watched(model) for model in sides]
    losses = method(pictures)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    for model, seen in zip(sides, watched, strict=True):
        assert len(seen.images) == 1
        torch.testing.assert_close(seen.images[0], seen_by(model, pictures.pixels))
    assert len({images.shape[-1] for seen in watched for images in seen.images}) == (
        1 if method.teacher is None else 2
    )


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("tinymim", {"drop_path": 0.4, "teacher_drop_path": 0.5}),
        ("feature_distillation", {"drop_path": 0.4, "teacher_drop_path": 0.5}),
        ("mae", {"drop_path": 0.4}),
        ("kdep", {"drop_path": 0.4}),
        ("relation_kd", {"drop_path": 0.4}),
        ("videomae", {"drop_path": 0.4}),
        ("amd", {"drop_path": 0.4}),
    ],
)
def test_each_side_drops_paths_by_draws_of_its_own(name, rates):
    clip = {"class_token": False, **CLIPS} if name == "videomae" else {}
    ours = student(**clip)
    theirs = [] if name in ("mae", "videomae") else [one_prefix()]
    small: dict[str, Any] = {"mae": {"decoder": DECODER}, "videomae": {"decoder": DECODER},
                             "kdep": {"align": "channel_random"},
                             "amd": {"reconstruction": {"decoder": DECODER}}}  # fmt: skip
    method = build(name, ours, *theirs, **rates, **small.get(name, {})).train()
    pictures = batch(frames=4 if clip else None)
    watched = [Watched(model) for model in (ours, *theirs)]
    method(pictures)
    streams = (Stream.DROP_PATH, Stream.TEACHER_DROP_PATH)
    for model, seen, stream in zip((ours, *theirs), watched, streams, strict=False):
        wanted = model.num_drop_path_draws
        if not wanted:
            assert seen.draws == [None]
            continue
        draws = per_sample_uniform(pictures.seeds, wanted, stream).T
        assert torch.equal(seen.draws[0], draws)
    assert ours.num_drop_path_draws
    assert bool(theirs and theirs[0].num_drop_path_draws) == ("teacher_drop_path" in rates)


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def relation_kl(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """The mean over samples, heads and queries of KL(theirs || ours)."""
    rows = []
    for a, b in (ours, theirs):
        logits = split(a, heads) @ split(b, heads).mT
        rows.append((logits / split(a, heads).shape[-1] ** 0.5).log_softmax(-1))
    return (rows[1].exp() * (rows[1] - rows[0])).sum(-1).mean()


@pytest.mark.parametrize("masked", [False, True])
def test_relations_of_tinymim(masked):
    ours, theirs = student(), one_prefix()
    options = {"input": "masked", "mask_ratio": 0.5} if masked else {}
    method = build("tinymim", ours, theirs, drop_path=0.0, **options)
    pictures = batch()
    visible = None
    if masked:
        noise = per_sample_uniform(pictures.seeds, 16, Stream.MASK)
        visible = noise.argsort(dim=1, stable=True)[:, :8]
    losses = method.train()(pictures)
    jittered = color_jitter(pictures.pixels / 255, pictures.seeds, (0.4, 0.4, 0.4))
    q, k, v = said_by(ours, jittered, Tap("qkv", 2), visible=visible).unbind(2)
    tq, tk, tv = said_by(theirs, pictures.pixels, Tap("qkv", 3), visible=visible).unbind(2)
    torch.testing.assert_close(losses.terms["qk"], relation_kl((q, k), (tq, tk), 4))
    torch.testing.assert_close(losses.terms["vv"], relation_kl((v, v), (tv, tv), 4))
    torch.testing.assert_close(losses.total.detach(), losses.terms["qk"] + losses.terms["vv"])


@pytest.mark.parametrize("kind", ["output", "block"])
def test_features_of_tinymim(kind):
    ours, theirs = student(), one_prefix()
    options = {"target": "feature", "feature": {"kind": kind}, "student_color_jitter": None}
    method = build("tinymim", ours, theirs, block=1, drop_path=0.0, **options).train()
    pictures = batch()
    said = method.target.projectors[0](said_by(ours, pictures.pixels, Tap("block", 2)))
    read = Tap("block", 3 if kind == "output" else 1)
    target = F.layer_norm(said_by(theirs, pictures.pixels, read), (24,))
    wanted = F.smooth_l1_loss(said, target, beta=2.0)
    torch.testing.assert_close(method(pictures).total, wanted)


@torch.no_grad()
def test_feature_distillation_of_another_grid():
    """Nine patches of the teacher, brought to sixteen, behind the first of its two tokens."""
    ours, theirs = student(), teacher(patch_size=16)
    method = build("feature_distillation", ours, theirs, resize_map=True, beta=0.7).train()
    pictures = batch()
    tokens = said_by(theirs, pictures.pixels, Tap("norm", 3)).to(torch.bfloat16)
    grid = tokens[:, 2:].mT.unflatten(2, (3, 3))
    patches = F.interpolate(grid, (4, 4), mode="bicubic", align_corners=False).flatten(2).mT
    target = F.layer_norm(torch.cat([tokens[:, :1], patches], dim=1).float(), (24,))
    assert torch.equal(method.target_of(method.features(pictures)), target)
    said = method.projector(said_by(ours, pictures.pixels, Tap("norm", 2)))
    wanted = F.smooth_l1_loss(said, target, beta=0.7)
    torch.testing.assert_close(method(pictures).total, wanted)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_feature_distillation_of_class_scores(temperature):
    ours, theirs = student(), teacher(num_classes=7)
    options = {"target": "logits", "temperature": temperature}
    method = build("feature_distillation", ours, theirs, **options).train()
    pictures = batch()
    scores = said_by(theirs, pictures.pixels, Tap("logits", 3))
    said = method.projector(said_by(ours, pictures.pixels, Tap("norm", 2))[:, 1:].mean(dim=1))
    p, t = (said / temperature).softmax(1), (scores / temperature).softmax(1)
    wanted = temperature**2 * (t * (t / p).log()).sum(1).mean()
    torch.testing.assert_close(method(pictures).total, wanted)


def pooled(model: Any, pixels: Tensor) -> Tensor:
    """The mean over patches behind the final norm."""
    tokens = said_by(model, pixels, Tap("norm", model.depth))
    return tokens.to(next(model.parameters()).dtype)[:, model.num_prefix_tokens :].mean(dim=1)


def cnn(width: int, seed: int, normalization: Normalization, size: int) -> PooledBackbone:
    torch.manual_seed(seed)
    last = nn.BatchNorm2d(width)
    nn.init.normal_(last.bias)
    body = nn.Sequential(nn.Conv2d(3, width, 8, 8), last, nn.ReLU())
    whole = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 7))
    model = PooledBackbone(whole, image_size=size, logits=True)
    model.normalization = normalization
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("activation", ["before", "after"])
def test_cnns_are_read_on_the_chosen_side_of_their_last_activation(activation):
    """The features that are compared; class scores are always made of what is behind it."""
    ours, theirs = cnn(8, 1, OURS, 32), cnn(12, 2, THEIRS, 48)
    plain = {"align": "channel_random", "transform": "none", "color_jitter": None}
    method = build(
        "kdep", ours, theirs, activation=activation, logits_weight=2.0, lighting_std=0, **plain
    ).eval()
    pictures = batch()
    features, activated = [], []
    for model in (ours, theirs):
        body = model.module[0]
        signal = body[:2](seen_by(model, pictures.pixels))
        activated.append(signal.relu().mean((2, 3)))
        features.append(signal.mean((2, 3)) if activation == "before" else activated[-1])
    assert (features[1].min() < 0) == (activation == "before")
    scores = theirs.module[3](activated[1])
    torch.testing.assert_close(method.features(pictures), torch.cat([features[1], scores], dim=1))
    target = features[1][:, method.maps["feature"].index]
    losses = method(pictures)
    torch.testing.assert_close(losses.terms["feature"], F.mse_loss(features[0], target))
    p, t = ((x / 4).log_softmax(1) for x in (method.classifier(activated[0]), scores))
    torch.testing.assert_close(losses.terms["logits"], 16 * (t.exp() * (t - p)).sum(1).mean())
    total = 3 * losses.terms["feature"] + 2 * losses.terms["logits"]
    torch.testing.assert_close(losses.total, total)


@torch.no_grad()
def test_the_map_of_kdep():
    """Singular directions of what the teacher says about pictures in its own way."""
    ours, theirs = student(), teacher(num_classes=7)
    options = {"fit_view": "train", "logits_weight": 2.0, "logits_temperature": 3.0}
    method = build("kdep", ours, theirs, lighting_std=0.3, weight=5.0, **options).train()
    shown = [batch(8, seed=seed) for seed in range(1, 6)]
    target_fit = method.target_fit(40)
    for one in shown:
        target_fit.add(one)
    method.use_fit(target_fit.result())

    def recoloured(one: Batch) -> Tensor:
        return method.view(one, augment=True).pixels

    rows = torch.cat([pooled(theirs, recoloured(one)) for one in shown]).double()
    mean = rows.mean(dim=0)
    basis = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:16].T
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    pictures = batch()
    view = recoloured(pictures)
    assert not torch.equal(view, pictures.unit_pixels())
    aligned = (pooled(theirs, view).double() - mean) @ (basis * largest.sign())
    target = aligned.sign() * (aligned.abs() / 0.1) ** (1 / 3)
    losses = method(pictures)
    wanted = F.mse_loss(pooled(ours, view), target.float())
    torch.testing.assert_close(losses.terms["feature"], wanted, rtol=1e-4, atol=1e-4)
    scores = said_by(theirs, view, Tap("logits", 3))
    p = (method.classifier(pooled(ours, view)) / 3).log_softmax(1)
    t = (scores / 3).log_softmax(1)
    logits = 9 * (t.exp() * (t - p)).sum(1).mean()
    torch.testing.assert_close(losses.terms["logits"], logits)
    torch.testing.assert_close(losses.total, 5 * losses.terms["feature"] + 2 * logits)


def hidden_patches(pixels: Tensor, ours: Any, hidden: Tensor) -> Tensor:
    """The student's own pixels of hidden patches, with the channel last, each normalised: pictures
    as the student sees them over all channels, clips in [0, 1] channel by channel."""
    side, clip = ours.patch_size, pixels.dim() == 5
    images = pixels / 255 if clip else seen_by(ours, pixels)
    cut = images.unfold(-2, side, side).unfold(-2, side, side)  # … rows columns side side
    if clip:
        cut = cut.unfold(2, 2, 2).movedim(-1, -3)  # channels slots rows columns 2 side side
        patches = cut.movedim(1, 4).flatten(1, 3).flatten(3)  # places channels values
        patches = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
        patches = patches.mT.flatten(2)
    else:
        patches = cut.movedim(1, -1).flatten(1, 2).flatten(2)
        patches = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
    return torch.stack([rows[index] for rows, index in zip(patches, hidden, strict=True)])


@torch.no_grad()
@pytest.mark.parametrize("clips", [False, True])
def test_the_terms_of_amd(clips):
    kinds = ({"class_token": False, **CLIPS}, CLIPS) if clips else ({}, {})
    ours, theirs = student(**kinds[0]), teacher(**kinds[1], distillation_token=not clips)
    prefix = ours.num_prefix_tokens, theirs.num_prefix_tokens
    assert prefix[0] != prefix[1]
    pairs, weights = [[1, 2], [2, 3]], {"direct": 2.0, "generation": 3.0, "reconstruction": 0.5}
    method = build(
        "amd", ours, theirs, student_mask_ratio=0.75, teacher_mask_ratio=0.5,
        direct={"pairs": pairs, "weight": 2.0}, generation={"weight": 3.0},
        reconstruction={"weight": 0.5, "decoder": DECODER},
    )  # fmt: skip
    pictures = batch(frames=4 if clips else None)
    losses = method.train()(pictures)
    # VideoMAE repeats one choice of places over both slots.
    order = per_sample_uniform(pictures.seeds, 16, Stream.MASK).argsort(dim=1, stable=True)
    parts = [order[:, s].sort(dim=1).values for s in (slice(4), slice(4, 8), slice(4, 16))]
    visible, extra, hidden = (torch.cat([p, p + 16], dim=1) if clips else p for p in parts)
    seen = torch.cat([visible, extra], dim=1)
    taps = [Tap("block", theirs_block) for _, theirs_block in pairs]
    targets = [x[:, prefix[1] :] for x in said_by(theirs, pictures.pixels, *taps, visible=seen)]
    features = said_by(ours, pictures.pixels, Tap("block", 1), Tap("block", 2), visible=visible)
    count = visible.shape[1]
    direct, generated = [], []
    for i, (target, feature) in enumerate(zip(targets, features, strict=True)):
        said = method.projections[i](feature)
        direct.append(F.mse_loss(said[:, prefix[0] :], target[:, :count]))
        completed = method.generators[i](said, visible, extra)
        generated.append(F.mse_loss(completed, target[:, count:]))
    torch.testing.assert_close(losses.terms["direct"], torch.stack(direct).mean())
    torch.testing.assert_close(losses.terms["generation"], torch.stack(generated).mean())
    norm = said_by(ours, pictures.pixels, Tap("norm", 2), visible=visible)
    painted = method.painter.decoder(norm, visible, hidden)
    wanted = F.mse_loss(painted, hidden_patches(pictures.pixels, ours, hidden))
    torch.testing.assert_close(losses.terms["reconstruction"], wanted, rtol=1e-4, atol=1e-5)
    total = sum(weights[name] * term for name, term in losses.terms.items())
    torch.testing.assert_close(losses.total, total)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mae", "videomae"])
def test_what_masked_autoencoders_paint(name):
    clips = name == "videomae"
    ours = student(**({"class_token": False, **CLIPS} if clips else {}))
    method = build(name, ours, mask_ratio=0.75, decoder=DECODER).train()
    pictures = batch(frames=4 if clips else None)
    order = per_sample_uniform(pictures.seeds, 16, Stream.MASK).argsort(dim=1, stable=True)
    visible, hidden = order[:, :4], order[:, 4:].sort(dim=1).values
    if clips:
        visible = visible.sort(dim=1).values
        visible, hidden = (torch.cat([x, x + 16], dim=1) for x in (visible, hidden))
    norm = said_by(ours, pictures.pixels, Tap("norm", 2), visible=visible)
    painted = method.painter.decoder(norm, visible, hidden)
    wanted = F.mse_loss(painted, hidden_patches(pictures.pixels, ours, hidden))
    torch.testing.assert_close(method(pictures).total, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_method_of_ones_own(tmp_path):
    ours, theirs = student(), teacher()
    pictures = batch()
    target = said_by(theirs, pictures.pixels, Tap("norm", 3)).mean(1)[:, :16]
    said = said_by(ours, pictures.pixels, Tap("norm", 2)).mean(1)
    found = custom(tmp_path, ours, theirs)(pictures)
    torch.testing.assert_close(found.total, 2 * F.mse_loss(said, target))


@torch.no_grad()
def test_students_of_one_teacher_learn_what_they_would_alone(tmp_path):
    both = made("several", tmp_path).train()
    pictures = batch()
    found = both(pictures)
    for name, method in both.methods.items():
        alone = method(pictures).total
        torch.testing.assert_close(found.terms[name], alone)
        tokens = said_by(both.teacher, pictures.pixels, Tap("norm", 3))
        target = F.layer_norm(torch.cat([tokens[:, :1], tokens[:, 2:]], dim=1), (24,))
        pupil = both.exports[name]
        said = method.projector(said_by(pupil, pictures.pixels, Tap("norm", pupil.depth)))
        torch.testing.assert_close(alone, F.smooth_l1_loss(said, target, beta=2.0))
    torch.testing.assert_close(found.total, found.terms["a"] + found.terms["b"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["feature_distillation", "kdep", "several"])
def test_a_cached_teacher_is_the_live_one(name, tmp_path):
    """Written in one step, read in the next: the teacher's own words about its own view."""
    method = made(name, tmp_path).train()
    pictures, ids = batch(), torch.arange(3)
    live = method(pictures).total
    tokens = said_by(method.teacher, pictures.pixels, Tap("norm", 3)).to(torch.bfloat16)
    words = tokens[:, 2:].mean(dim=1) if name == "kdep" else tokens
    cache = TeacherCache(tmp_path / "cache", Layout(tuple(words.shape[1:]), "fp32"), 1, 3)
    cache.open_to_write({"format": 1})

    def cached() -> Batch:
        found = cache.read(0, ids.numpy())
        return replace(pictures, cached=cache.for_batch(0, ids, pictures.seeds, found))

    cold = method(cached()).total
    cache.close()
    kept = cache.layout.decode(cache.read(0, np.arange(3)).raw)
    torch.testing.assert_close(kept, words.float())
    watched = Watched(method.teacher)
    warm = method(cached()).total
    assert watched.images == []
    torch.testing.assert_close(cold, live)
    assert torch.equal(cold, warm)
