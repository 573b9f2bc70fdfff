"""UMT's first stage against plain arithmetic, with two sides that differ in everything; what does
not fit is told."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from building import build
from unequal import batch, student, teacher

from vistill.batch import Batch
from vistill.config.umt import UMTConfig
from vistill.errors import UserError
from vistill.methods.frame_importance import importance_of, importance_tap
from vistill.methods.umt import UMT
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone, load_teacher
from vistill.models.vit import VisionTransformer
from vistill.random import Stream, per_sample_uniform

CLIPS: dict[str, Any] = {"tubelet_size": 1, "num_frames": 4, "class_token": False}
POSITIONS, FRAMES = 16, 4


def projected(**changes: Any) -> VisionTransformer:
    """A teacher in fp32 with a projection, as CLIP has one."""
    model = teacher(torch.float32, **changes)
    model.keep_projection(torch.randn(24, 10, generator=torch.Generator().manual_seed(3)))
    return model


def umt(ours: Any = None, theirs: Any = None, drop_path: float = 0.0, **options: Any) -> UMT:
    torch.manual_seed(0)
    pair = ours or student(**CLIPS), theirs or projected()
    return build("umt", *pair, drop_path=drop_path, **{"aligned_layers": 2, **options})


def drawn(method: UMT, clips: Batch) -> torch.Tensor | None:
    """What the method shows of these clips."""
    shown = []
    choose = method.choose
    method.choose = lambda *given: shown.append(choose(*given)) or shown[-1]  # type: ignore[assignment]
    method(clips)
    method.choose = choose
    return shown[0]


@torch.no_grad()
def plain_targets(method: UMT, clips: Batch, blocks: list[int]) -> torch.Tensor:
    """All of the teacher's tokens, as the published formulation makes them: `[K, B, T N, C]`."""
    config, theirs = method.config, method.teacher
    assert isinstance(theirs, VisionTransformer)
    model = method.student if config.pixels == "student" else theirs
    mean, std = (
        torch.tensor(v).view(1, 3, *(1,) * (clips.pixels.dim() - 2))
        for v in (model.normalization.mean, model.normalization.std)
    )
    clip = (clips.pixels / 255 - mean) / std
    if clip.dim() == 4:
        clip = clip[:, :, None]
    span = clip.shape[2] // method.student.slots
    found = []
    for slot in range(method.student.slots):
        part = clip[:, :, slot * span : (slot + 1) * span]
        frame = part.mean(2) if config.slot == "mean" else part[:, :, span // 2]
        frame = F.interpolate(frame, theirs.image_size, mode="bicubic", align_corners=False)
        signals = theirs.tap(frame, [Tap("block", block) for block in blocks])
        found.append(torch.stack([theirs.norm(x)[:, 2:] for x in signals.values()]))
    tokens = torch.cat(found, dim=2)
    tokens = tokens if theirs.projection is None else tokens @ theirs.projection
    return F.normalize(tokens, dim=-1) if config.norm == "l2" else tokens


def plain_loss(method: UMT, clips: Batch, visible: torch.Tensor | None) -> torch.Tensor:
    """The loss of one mask a clip."""
    ours, config = method.student, method.config
    images = method.ours.images(clips)
    depths = [ours.depth - int(i * config.student_interval) for i in (1, 0)]
    taps = [Tap("block", depth) for depth in depths]
    prefix = ours.num_prefix_tokens
    signals = ours.tap(images, taps, visible=visible)
    deep = method.teacher.depth  # type: ignore[union-attr]
    targets = plain_targets(method, clips, [deep - int(config.teacher_interval), deep])
    total = []
    for k, tap in enumerate(taps):
        x = ours.norm(signals[tap])[:, prefix:]
        rows = torch.arange(ours.num_patches)[None] if visible is None else visible
        x = x + method.decoders.positions[rows]
        decoder = method.decoders.layers[k]
        said = F.layer_norm(
            decoder.head(x),
            (decoder.head.out_features,),
            decoder.norm.weight,
            decoder.norm.bias,
            ours.norm_eps,
        )
        said = F.normalize(said, dim=-1) if config.norm == "l2" else said
        wanted = (
            targets[k]
            if visible is None
            else torch.stack([t[r] for t, r in zip(targets[k], visible, strict=True)])
        )
        if config.loss == "l2":
            total.append((2 - 2 * (said * wanted).sum(-1)).mean())
        elif config.loss == "mse":
            total.append((said - wanted).square().mean())
        else:
            total.append(F.smooth_l1_loss(said, wanted))
    return config.weight * torch.stack(total).mean()


AXES: list[dict[str, Any]] = [
    {},
    {"mask": "attention"},
    {"mask": "tube"},
    {"mask": "random"},
    {"mask": "none"},
    {"mask_ratio": 0.5},
    {"mask": "tube", "mask_ratio": 0.9},
    {"norm": "none"},
    {"norm": "none", "loss": "mse"},
    {"loss": "smooth_l1"},
    {"teacher_interval": 2.0},
    {"teacher_interval": 1.5, "weight": 0.5},
    {"pixels": "own"},
]


@pytest.mark.parametrize("options", AXES, ids=str)
def test_every_switch_is_plain_arithmetic(options: dict[str, Any]) -> None:
    method, clips = umt(**options), batch(frames=FRAMES)
    visible = drawn(method, clips)
    losses = method(clips)
    torch.testing.assert_close(
        losses.total, plain_loss(method, clips, visible), rtol=1e-4, atol=1e-5
    )
    assert set(losses.terms) == {"alignment"}
    losses.total.backward()
    assert all(p.grad is not None for p in method.decoders.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("slot", ["middle", "mean"])
def test_tokens_of_several_frames(slot: str) -> None:
    ours = student(**{**CLIPS, "tubelet_size": 2})
    method, clips = umt(ours, slot=slot), batch(frames=FRAMES)
    visible = drawn(method, clips)
    assert visible is not None
    assert visible.shape == (3, 2 * (POSITIONS - int(POSITIONS * 0.8)))
    torch.testing.assert_close(
        method(clips).total, plain_loss(method, clips, visible), rtol=1e-4, atol=1e-5
    )


def test_pictures() -> None:
    method, pictures = umt(student()), batch()
    visible = drawn(method, pictures)
    torch.testing.assert_close(
        method(pictures).total, plain_loss(method, pictures, visible), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("mask", ["semantic", "attention", "tube", "random"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8, 0.9])
def test_as_many_tokens_as_the_ratio_leaves(mask: str, ratio: float) -> None:
    visible = drawn(umt(mask=mask, mask_ratio=ratio), batch(frames=FRAMES))
    assert visible is not None
    total = FRAMES * POSITIONS
    each = POSITIONS - int(POSITIONS * ratio)
    assert visible.shape[1] == (total - int(total * ratio) if mask == "random" else FRAMES * each)
    assert all(len(set(row.tolist())) == len(row) for row in visible)
    if mask != "random":
        frames = torch.div(visible, POSITIONS, rounding_mode="floor")
        assert all(torch.bincount(row).tolist() == [each] * FRAMES for row in frames)
    if mask == "tube":
        assert torch.equal(visible[:, :each], visible[:, each : 2 * each] - POSITIONS)


def test_the_most_important_tokens_are_seen_most_often() -> None:
    method = umt()
    importance = torch.rand(1, 1, POSITIONS, generator=torch.Generator().manual_seed(1)) ** 3
    importance = importance.expand(400, FRAMES, -1)
    seeds = torch.arange(400)
    clips = Batch(torch.zeros(400, 3, FRAMES, 1, 1), seeds=seeds, ids=seeds)
    visible = method.choose(clips, importance)
    assert visible is not None
    often = torch.bincount(visible.flatten() % POSITIONS, minlength=POSITIONS).float()
    first = torch.bincount(  # one token drawn: its probability is its importance
        _first_of(importance, seeds), minlength=POSITIONS
    ).float()
    share = importance[0, 0] / importance[0, 0].sum()
    assert ((first / first.sum() - share).abs() < 0.05).all()
    ranks = torch.stack([often, importance[0, 0]]).argsort(dim=1).argsort(dim=1).float()
    assert torch.corrcoef(ranks)[0, 1] > 0.95


def _first_of(importance: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    from vistill.tokens.semantic import exponential, sampling_order

    noise = exponential(per_sample_uniform(seeds, FRAMES * POSITIONS, Stream.MASK))
    return sampling_order(importance, noise.reshape(importance.shape))[..., 0].flatten()


@pytest.mark.parametrize("mask", ["semantic", "random", "tube"])
@pytest.mark.parametrize("masks", [2, 3, 5])
def test_several_masks_of_one_look(mask: str, masks: int) -> None:
    """The loss is the mean over the masks; 5 together show more tokens than a frame has."""
    method, clips = umt(mask=mask, masks=masks), batch(frames=FRAMES)
    visible = drawn(method, clips)
    assert visible is not None
    each = visible.reshape(len(clips), masks, -1)
    assert not torch.equal(each[:, 0], each[:, 1])
    single = [plain_loss(method, clips, each[:, m]) for m in range(masks)]
    torch.testing.assert_close(
        method(clips).total, torch.stack(single).mean(), rtol=1e-4, atol=1e-5
    )


def test_each_copy_drops_paths_of_its_own() -> None:
    method = umt(masks=2, drop_path=0.4).train()
    seen: list[torch.Tensor] = []
    usual = method.student.tap

    def watched(images: Any, taps: Any, *, visible: Any, drop_path_noise: Any) -> Any:
        seen.append(drop_path_noise)
        return usual(images, taps, visible=visible, drop_path_noise=drop_path_noise)

    method.student.tap = watched  # type: ignore[method-assign]
    clips = batch(frames=FRAMES)
    method(clips)
    draws = method.student.num_drop_path_draws
    assert seen[0].shape == (draws, 6)
    assert len(set(seen[0][0].tolist())) == 6
    alone = umt(drop_path=0.4).train()
    alone.student.tap = watched  # type: ignore[method-assign]
    alone(clips)
    assert torch.equal(seen[1], per_sample_uniform(clips.seeds, draws, Stream.DROP_PATH).T)


def test_a_clip_is_the_same_in_any_batch() -> None:
    method, clips = umt(), batch(frames=FRAMES)
    whole = drawn(method, clips)
    alone = drawn(method, clips.take(torch.tensor([1])))
    assert whole is not None
    assert alone is not None
    assert torch.equal(whole[1], alone[0])


def test_nothing_but_what_is_behind_the_last_layer_is_frozen() -> None:
    method = umt()
    assert freeze_unreached(method, batch(frames=FRAMES)) == []


@pytest.mark.parametrize(
    "name", ["timm/vit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224"]
)
def test_teachers_of_libraries(name: str) -> None:
    theirs = load_teacher(name, weights="random", image_size=64)
    ours = create_backbone("vit", image_size=64, embed_dim=24, depth=2, num_heads=3,
                           num_frames=2, tubelet_size=1)  # fmt: skip
    method = build("umt", ours, theirs, aligned_layers=2)
    pixels = torch.randint(0, 256, (2, 3, 2, 64, 64), dtype=torch.uint8)
    losses = method(Batch(pixels, seeds=torch.arange(2), ids=torch.arange(2)))
    assert 0 < losses.total.item() < 4


def test_clip_of_transformers_is_projected(tmp_path: Any) -> None:
    """Its tower is read by hooks; features and importance are those of the library."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        image_size=32, patch_size=8, projection_dim=12,
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    theirs = load_teacher(f"hf/{tmp_path}:pretrained", weights=None, image_size=32)
    assert theirs.projection is not None
    torch.testing.assert_close(theirs.projection, model.visual_projection.weight.T)
    method = umt(theirs=theirs)
    clips = batch(frames=FRAMES)
    with torch.no_grad():
        images = method.ours.images(clips)
        frames = images.transpose(1, 2).flatten(0, 1)
        tower = model.vision_model
        tower.set_attn_implementation("eager")
        out = tower(frames, output_hidden_states=True, output_attentions=True)
        wanted = tower.post_layernorm(torch.stack(out.hidden_states[-2:])[:, :, 1:])
        wanted = F.normalize(wanted @ model.visual_projection.weight.T, dim=-1)
        importance: list[Any] = []
        visible, found = method.looks.look(
            images, lambda one: importance.append(one) or method.choose(clips, one)
        )
    with pytest.raises(UserError, match="plain ViT as a teacher"):
        umt(theirs=theirs, mask="tube", visible_only=True)
    assert visible is not None
    torch.testing.assert_close(
        importance[0].flatten(0, 1), out.attentions[-1].mean(1)[:, 0, 1:], atol=1e-5, rtol=1e-4
    )
    whole = wanted.unflatten(1, (3, FRAMES)).flatten(2, 3)
    rows = visible[None, :, :, None].expand(2, -1, -1, 12)
    torch.testing.assert_close(found, whole.gather(2, rows), atol=1e-5, rtol=1e-4)


BARE = {"class_token": False, "distillation_token": False}


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "message"),
    [
        ({}, BARE, {}, "set method.importance=patches, method.mask=random or method.mask=tube"),
        ({}, {"image_size": 60}, {}, "teacher.image_size=48 gives it as many"),
        ({}, BARE | {"tubelet_size": 1, "num_frames": 4}, {}, "this one takes clips"),
        ({}, {}, {"aligned_layers": 3}, "do not fit into the student's 2 blocks"),
        ({}, {}, {"teacher_interval": 3.0}, "do not fit into the teacher's 3 blocks"),
        ({}, {}, {"student_interval": 0.5}, "do not fit into the student's 2 blocks"),
        ({}, {}, {"mask_ratio": 0.01}, "leaves all of 16 patches visible"),
        ("timm/resnet18", {}, {}, "has to be a plain ViT"),
        ({}, "timm/resnet18", {}, "and the teacher has none"),
    ],
)
def test_mistakes(ours: Any, theirs: Any, options: dict[str, Any], message: str) -> None:
    models = [
        create_backbone(sizes, image_size=32) if isinstance(sizes, str) else make(sizes)
        for sizes, make in ((ours, lambda s: student(**{**CLIPS, **s})),
                            (theirs, lambda s: teacher(torch.float32, **s)))
    ]  # fmt: skip
    with pytest.raises(UserError, match=message):
        umt(*models, **options)


def test_a_teacher_without_a_class_token_serves_where_the_user_says_how() -> None:
    theirs = teacher(torch.float32, class_token=False, distillation_token=False)
    for mask in ("random", "tube", "none"):
        assert umt(theirs=theirs, mask=mask)(batch(frames=FRAMES)).total > 0


def test_what_the_patches_attend_to() -> None:
    """The mean of the rows of the last block's attention, with and without prefix tokens."""
    for sizes in (BARE, {}):
        theirs = teacher(torch.float32, **sizes)
        tap = importance_tap(theirs, UMTConfig(importance="patches"))
        assert tap is not None
        pictures = torch.randn(2, 3, *theirs.image_size)
        with torch.no_grad():
            found = theirs.tap(pictures, [tap])[tap]
            importance = importance_of(theirs, tap, found)
        heads, prefix = theirs.num_heads[-1], theirs.num_prefix_tokens
        size = theirs.width // heads
        mean = torch.zeros(2, found.shape[1])
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            q, k = found[:, :, 0, part], found[:, :, 1, part]
            rows = (q @ k.transpose(1, 2) / size**0.5).softmax(-1)
            mean += rows[:, prefix:].mean(dim=1) / heads
        torch.testing.assert_close(importance, mean[:, prefix:])
        assert umt(theirs=theirs, importance="patches")(batch(frames=FRAMES)).total > 0


def test_a_teacher_that_pools_by_attention_needs_no_word(tmp_path: Any) -> None:
    """SigLIP has no class token; a query of its own pools its patches."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        image_size=64, patch_size=16,
    )  # fmt: skip
    transformers.SiglipVisionModel(config).save_pretrained(tmp_path)
    theirs = load_teacher(f"hf/{tmp_path}", image_size=64)
    for mask in ("semantic", "attention"):
        assert umt(theirs=theirs, mask=mask)(batch(frames=FRAMES)).total > 0
    with pytest.raises(UserError, match="teacher's class token"):
        umt(theirs=theirs, importance="class_token")
    cnn = create_backbone("timm/resnet18", image_size=64)
    with pytest.raises(UserError, match="shows none"):
        importance_tap(cnn, UMTConfig(importance="patches"))


def test_the_teacher_of_a_published_size_is_a_matter_of_the_recipe() -> None:
    assert UMTConfig().aligned_layers == 6
    assert UMTConfig.student_defaults == {"tubelet_size": 1}


def test_looks_that_chose_other_tokens_are_compared_where_both_chose():
    method = umt(masks=2, aligned_layers=1)
    with torch.no_grad():
        said = method.teacher_features(batch(frames=FRAMES))
    assert method.disagreement(said, said).tolist() == [0.0] * len(said["tokens"])
    other = {name: part.clone() for name, part in said.items()}
    visible = other["visible"].unflatten(1, (2, -1))
    taken = set(visible[0, 1].tolist())
    free = next(i for i in range(visible[0, 1, -1].item() + 1) if i not in taken)
    kept = [i for i in sorted({*taken, free}) if i != max(taken)]
    rows = [sorted(taken).index(i) if i in taken else 0 for i in kept]
    tokens = other["tokens"].unflatten(1, (2, -1))
    tokens[0, 1], visible[0, 1] = tokens[0, 1, rows].clone(), torch.tensor(kept)
    share = 1 / said["visible"].shape[1]
    assert method.disagreement(other, said)[0].item() == pytest.approx(share / 2)
    assert method.disagreement(other, said)[1:].eq(0).all()
    tokens[0, 0] *= 1.5
    assert 0.2 < method.disagreement(other, said)[0].item() < 0.5
