"""VideoMAE as a method, and the ViT of clips that it trains."""

import pytest
import torch
from building import build

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.losses.reconstruction import normalize_cubes
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.positions import sincos_1d
from vistill.models.timm_form import timm_form
from vistill.models.vit import VisionTransformer


def student(**changes) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return create_backbone("vit", **(sizes | {"num_frames": 4} | changes))


def clips(count: int = 2) -> Batch:
    pixels = torch.rand(count, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, seeds=torch.arange(count) * 977, ids=torch.arange(count))


def test_a_clip_is_masked_alike_in_any_batch():
    torch.manual_seed(0)
    method, batch = build("videomae", student()), clips(4)
    whole = method(batch).total
    halves = [
        method(Batch(batch.pixels[rows], batch.seeds[rows], batch.ids[rows])).total
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2)


def test_learning_to_paint():
    torch.manual_seed(0)
    method, batch = build("videomae", student(), mask_ratio=0.5), clips()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = method(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_cubes_are_normalised_per_channel():
    cubes = torch.rand(2, 5, 3, 128) * torch.tensor([1.0, 5.0, 0.1])[:, None]
    found = normalize_cubes(cubes)
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(-1), torch.ones(2, 5, 3), atol=1e-3, rtol=0)
    flat = torch.full((1, 1, 3, 8), 0.5)
    assert torch.equal(normalize_cubes(flat), torch.zeros_like(flat))


def test_a_student_of_clips_has_no_class_token_and_no_key_bias():
    model = student()
    assert (model.num_prefix_tokens, model.qkv_bias, model.num_frames) == (0, "no_key", 4)
    assert create_backbone("vit_tiny").num_frames == 1
    assert student(class_token=True, qkv_bias="all").num_prefix_tokens == 1


def test_the_embedding_of_tubes_keeps_torchs_initialisation():
    torch.manual_seed(0)
    weight = student().patch_embed.proj.weight
    bound = 1 / (3 * 2 * 8 * 8) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound


def test_drop_path_rises():
    method = build("videomae", student(depth=3), drop_path=0.2)
    assert method.student.drop_path_rates == pytest.approx([0.0, 0.1, 0.2])


def test_one_feature_per_clip():
    model, batch = student().eval(), clips()
    images = model.normalization(batch.pixels)
    pooled = model.pooled(images)
    tap = Tap("norm", 2)
    torch.testing.assert_close(pooled, model.tap(images, [tap])[tap].mean(dim=1))


def test_an_exported_student_of_clips(tmp_path):
    model = student()
    save_backbone(model, tmp_path / "out")
    found = read_backbone(tmp_path / "out")
    assert (found.num_frames, found.tubelet_size) == (4, 2)
    images = clips().pixels
    assert torch.equal(found(images), model(images))
    assert timm_form(model) is None  # timm has no such model
    again = load_backbone(f"run:{tmp_path}/out", image_size=16, num_frames=8)
    assert torch.equal(again.pos_embed, sincos_1d(24, 16).float())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: build("videomae", student(), mask_ratio=0.01),
         "method.mask_ratio=0.01 leaves all of 16 patches"),
        (lambda: build("videomae", create_backbone("vit_tiny")),
         "set data.frames"),
        (lambda: student(num_frames=5), "5 frames are no multiple of the tubelet size 2; 4 or 6"),
        (lambda: create_backbone("swinv2_tiny", num_frames=4), "takes pictures, not clips"),
        (lambda: create_backbone("timm/resnet18", num_frames=4), "takes pictures, not clips"),
        (lambda: load_backbone(student(), num_frames=7), "7 frames are no multiple"),
    ],
)  # fmt: skip
def test_what_does_not_fit(act, message):
    with pytest.raises(UserError, match=message):
        act()
