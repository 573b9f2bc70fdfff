"""Every switch of AMD trains what it should, for clips and pictures; what does not fit is told."""

import pytest
import torch
from building import build

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods.amd import AMD
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer

DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
RECONSTRUCTION = {"decoder": DECODER}


def clip_vit(width: int = 24, **changes) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": width, "depth": 2, "num_heads": 2}
    clips = {"tubelet_size": 2, "num_frames": 4, "class_token": False, "qkv_bias": "no_key"}
    return VisionTransformer(**(sizes | clips | changes))


def vit(width: int = 24, **changes) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": width, "depth": 2, "num_heads": 2}
    return VisionTransformer(**(sizes | changes))


def clips(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(count) * 977, ids=torch.arange(count))


def pictures() -> Batch:
    batch = clips()
    return Batch(batch.pixels[:, :, 0], batch.seeds, batch.ids)


def amd(student=None, teacher=None, **options) -> AMD:
    torch.manual_seed(0)
    given = {"reconstruction": RECONSTRUCTION} | options
    return build("amd", student or clip_vit(), teacher or clip_vit(32), **given)


AXES = [
    {},
    {"mask": "random"},
    {"student_mask_ratio": 0.8, "teacher_mask_ratio": 0.0},
    {"student_mask_ratio": 0.75, "teacher_mask_ratio": 0.75},
    {"direct": {"weight": 0}},
    {"generation": {"weight": 0}},
    {"reconstruction": {"weight": 0}},
    {"generation": {"input": "parallel"}},
    {"generation": {"input": "parallel", "pairs": [[1, 1], [2, 2]]}, "direct": {"pairs": [[2, 2]]}},
    {"generation": {"pairs": [[1, 1]]}},
    {"shared_projection": True},
    {"projection": "mlp"},
    {"direct": {"pairs": [[2, 2]], "loss": "l1"}, "generation": {"loss": "smooth_l1"}},
    {"layer_reduction": "sum", "channel_reduction": "sum"},
    {"generation": {"depth": 1, "num_heads": 4, "final_norm": True, "mask_token": "frozen"}},
    {"target_norm": "layer_norm"},
    {"reconstruction": {"weight": 0.5, "norm_pixels": False, "decoder": DECODER}},
]


@pytest.mark.parametrize("kind", ["clips", "pictures"])
@pytest.mark.parametrize("options", AXES, ids=str)
def test_every_switch_trains_the_whole_student(options, kind):
    models = (clip_vit(), clip_vit(32)) if kind == "clips" else (vit(), vit(32))
    batch = clips() if kind == "clips" else pictures()
    method = amd(*models, **options)
    names = {n for n, p in method.named_parameters() if p.requires_grad}
    frozen = set(freeze_unreached(method, batch))
    losses = method(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    painted = options.get("reconstruction", {}).get("weight", 1.0) > 0
    assert frozen == (set() if painted else {"student.norm.weight", "student.norm.bias"})
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (name in names - frozen), name


def test_the_terms_add_up():
    options = {
        "direct": {"weight": 2.0},
        "generation": {"weight": 3.0},
        "reconstruction": RECONSTRUCTION | {"weight": 0.5},
    }
    losses = amd(**options)(clips())
    terms = losses.terms
    expected = 2 * terms["direct"] + 3 * terms["generation"] + 0.5 * terms["reconstruction"]
    torch.testing.assert_close(losses.total.detach(), expected)
    assert set(terms) == {"direct", "generation", "reconstruction"}
    watched = losses.watched
    torch.testing.assert_close(terms["direct"], (watched["direct_1_1"] + watched["direct_2_2"]) / 2)
    norms = {f"{side}_norm_{block}" for side in ("student", "teacher") for block in (1, 2)}
    assert norms | {f"generation_{b}_{b}" for b in (1, 2)} < set(watched)


def test_sums_are_means_times_their_number():
    mean = amd()(clips()).terms
    total = amd(layer_reduction="sum", channel_reduction="sum")(clips()).terms
    for name in ("direct", "generation"):
        torch.testing.assert_close(total[name], mean[name] * 2 * 32)
    torch.testing.assert_close(total["reconstruction"], mean["reconstruction"])


def test_equal_ratios_leave_nothing_to_generate():
    method = amd(student_mask_ratio=0.75, teacher_mask_ratio=0.75)
    assert "generation" not in method(clips()).terms
    assert not len(method.generators)


def test_the_teacher_sees_no_more_than_its_tokens_and_stops_early():
    teacher = clip_vit(32, depth=4)
    method = amd(teacher=teacher, direct={"pairs": [[1, 1], [2, 2]]})
    seen = []
    teacher.blocks[1].register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    teacher.blocks[2].register_forward_hook(lambda *_: seen.append("too deep"))
    teacher.patch_embed.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    method(clips())
    count = method.mask_sizes.seen * method.mask_sizes.slots
    assert seen == [(2, count, 32), (2, count, 32)]


def test_generation_reads_the_projection_of_the_direct_loss():
    method = amd()
    calls = []
    for projection in method.projections:
        projection.register_forward_hook(lambda *_: calls.append(1))
    method(clips())
    assert len(calls) == 2  # not four


def test_generated_features_do_not_see_the_target():
    """What the generator says about a token depends on the visible ones alone."""
    method, batch = amd().eval(), clips()
    mask = method.mask(batch)
    images = batch.unit_pixels()
    hidden = images.clone()
    flat = hidden.unfold(2, 2, 2).unfold(3, 8, 8).unfold(4, 8, 8)  # a view: B 3 T R C t r c
    grid = torch.stack(torch.unravel_index(mask.extra, (2, 4, 4)), dim=-1)
    for sample in range(2):
        for t, r, c in grid[sample].tolist():
            flat[sample, :, t, r, c] = 0.123
    assert not torch.equal(hidden, images)
    student = method.student
    tap = Tap("block", 2)
    said = [
        method.predict(
            {
                block: student.tap(student.normalization(x), [Tap("block", block)],
                                   visible=mask.visible)[Tap("block", block)]
                for block in (1, 2)
            },
            mask,
        )["generation"][1]
        for x in (images, hidden)
    ]  # fmt: skip
    assert torch.equal(*said)
    targets = [
        method.target_of(method.teacher_features(Batch(x, batch.seeds, batch.ids)))[tap.block]
        for x in (images, hidden)
    ]
    assert not torch.equal(*targets)


def test_a_sample_is_seen_alike_in_any_batch():
    method, batch = amd(), clips(4)
    whole = method(batch).total
    parts = [
        method(Batch(batch.pixels[rows], batch.seeds[rows], batch.ids[rows])).total
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)


def test_copies_of_a_clip_have_masks_of_their_own():
    method, batch = amd(), clips(1)
    copies = Batch(batch.pixels.repeat(2, 1, 1, 1, 1), torch.tensor([5, 6]), torch.zeros(2).long())
    mask = method.mask(copies)
    assert not torch.equal(mask.visible[0], mask.visible[1])


def test_frozen_mask_tokens_are_saved_and_learned_ones_do_not_decay():
    frozen = amd(generation={"mask_token": "frozen"})
    assert "generators.0.mask_token" in frozen.state_dict()
    assert "generators.0.mask_token" not in dict(frozen.named_parameters())
    assert frozen.generators[0].mask_token.abs().max() <= 0.02
    learned = amd()
    assert "generators.0.mask_token" in dict(learned.named_parameters())
    assert any(part in "generators.0.mask_token" for part in learned.no_decay)


def test_pictures_keep_class_tokens_out_of_the_losses():
    method = amd(vit(), vit(32))
    mask = method.mask(pictures())
    features = {block: torch.randn(2, 1 + mask.visible.shape[1], 24) for block in (1, 2)}
    said = method.predict(features, mask)
    assert said["direct"][0].shape == (2, mask.visible.shape[1], 32)
    assert said["generation"][0].shape == (2, mask.extra.shape[1], 32)
    assert (mask.visible.shape[1], mask.seen.shape[1]) == (4, 8)  # a quarter and half of 16


def test_a_teacher_of_another_picture_size():
    """Half the pixels, half the patch: the same grid."""
    teacher = clip_vit(32, image_size=16, patch_size=4)
    losses = amd(teacher=teacher)(clips())
    assert torch.isfinite(losses.total)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {"student_mask_ratio": 0.5}, "student_mask_ratio=0.5 is below"),
        ({}, {"student_mask_ratio": 0.76, "teacher_mask_ratio": 0.75},
         "of 16 positions both mask ratios, 0.76 and 0.75, leave 4"),
        ({}, {"student_mask_ratio": 0.99, "mask": "tube", "teacher_mask_ratio": 0.9},
         None),
        ({"teacher": clip_vit(32, tubelet_size=1)}, {}, "student.tubelet_size=2.*span 1 frames"),
        ({"teacher": clip_vit(32, patch_size=16)}, {}, r"2 x 4 x 4 tokens.*2 x 2 x 2"),
        ({"teacher": vit(32)}, {}, "student sees clips, but the teacher was made for pictures"),
        ({"student": vit(), "teacher": clip_vit(32)}, {}, "sees pictures.* made for clips"),
        ({}, {"direct": {"pairs": [[3, 1]]}}, "no block 3, as the student has 2"),
        ({}, {"direct": {"pairs": [[1, 4]]}}, "no block 4, as the teacher has 2"),
        ({}, {"direct": {"pairs": [[1, 2], [2, 1]]}}, r"\[1, 2\] and \[2, 1\] cross"),
        ({}, {"direct": {"pairs": [[1, 1], [1, 2]]}}, "block 1 of the student twice"),
        ({}, {"direct": {"pairs": [[2, 2]]}, "generation": {"pairs": [[1, 1], [2, 2]]}},
         "has 2 pairs, but there are only 1 projections"),
        ({}, {"generation": {"num_heads": 5}}, "width 32 cannot be split into 5 heads"),
        ({}, {"reconstruction": {"decoder": {"embed_dim": 10, "num_heads": 3}}},
         "width of 10 cannot be split into 3"),
        ({}, {"direct": {"weight": 0}, "generation": {"weight": 0}, "reconstruction":
              {"weight": 0}}, "nothing is left to learn"),
    ],
)  # fmt: skip
def test_what_does_not_fit(models, options, message):
    if message is None:
        assert amd(**models, **options).mask_sizes.visible == 1
        return
    with pytest.raises(UserError, match=message):
        amd(**models, **options)


def test_settings_of_other_methods_are_refused():
    for extra in ({"block": 1}, {"teacher_drop_path": 0.1}):
        with pytest.raises(UserError, match="amd does not read teacher"):
            build("amd", clip_vit(), clip_vit(32), **extra)
    with pytest.raises(UserError, match="amd needs a teacher"):
        build("amd", clip_vit())
