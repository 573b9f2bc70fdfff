"""Every method on inputs of unequal sides, where the two models share neither size nor patch."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from building import build
from torch import Tensor

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.build import create_backbone
from vistill.models.vit import VisionTransformer

SIZES = [(32, 64), (64, 32)]
GRIDS = {(32, 64): (4, 8), (64, 32): (8, 4)}
DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
OTHER = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def vit(size: tuple[int, int], **changes: Any) -> VisionTransformer:
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(image_size=size, **(sizes | changes))


def teacher(size: tuple[int, int], **changes: Any) -> VisionTransformer:
    """Twice as large a picture, other statistics; as many patches as the student by default."""
    double = size[0] * 2, size[1] * 2
    sizes = {"patch_size": 16, "embed_dim": 40, "position": "learned", "normalization": OTHER}
    return vit(double, **(sizes | changes))


CLIP = {"tubelet_size": 2, "num_frames": 4, "class_token": False, "qkv_bias": "no_key"}
CLIP_TEACHER = CLIP | {"position": "sincos"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    # method, options, changes of the student and of the teacher
    "mae": ("mae", {"decoder": DECODER}, {}, None),
    "tinymim-relation": ("tinymim", {}, {}, {}),
    "tinymim-feature": ("tinymim", {"target": "feature"}, {}, {}),
    "tinymim-class-token": ("tinymim", {"target": "class_token"}, {}, {}),
    "tinymim-masked": (
        "tinymim",
        {"input": "masked", "aux_mim": {"weight": 1.0, "decoder": DECODER}},
        {"relative_position": "shared"},
        {"relative_position": "layer"},
    ),
    "fd": ("feature_distillation", {}, {"relative_position": "shared"}, {}),
    "fd-resized": ("feature_distillation", {"resize_map": True}, {}, {"patch_size": 32}),
    "fd-pooled": ("feature_distillation", {"target": "pooled"}, {}, {"patch_size": 32}),
    "kdep": ("kdep", {"align": "interpolate", "color_jitter": [0.4] * 3}, {}, {"patch_size": 32}),
    "relation_kd": ("relation_kd", {}, {}, {"patch_size": 32}),
    "amd-pictures": ("amd", {"reconstruction": {"decoder": DECODER}}, {}, {}),
    "amd": ("amd", {"reconstruction": {"decoder": DECODER}}, CLIP, CLIP_TEACHER),
    "amd-random": ("amd", {"mask": "random"}, CLIP, CLIP_TEACHER),
    "videomae": ("videomae", {"decoder": DECODER}, CLIP, None),
    "umt": ("umt", {"aligned_layers": 2, "mask_ratio": 0.5}, CLIP, {}),
    "umt-random": ("umt", {"aligned_layers": 2, "mask": "random"}, CLIP, {}),
    "umt-pictures": ("umt", {"aligned_layers": 2}, {}, {}),
    "videomae-random": ("videomae", {"decoder": DECODER, "mask": "random"}, CLIP, None),
}


def made(case: str, size: tuple[int, int]) -> tuple[Any, Batch]:
    """The method, and two pictures or clips of `size`."""
    name, options, ours, theirs = CASES[case]
    torch.manual_seed(0)
    student = vit(size, **ours)
    method = build(name, student, None if theirs is None else teacher(size, **theirs), **options)
    return method, batch(size, student.num_frames)


def batch(size: tuple[int, int], frames: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 3, frames, *size) if frames > 1 else (2, 3, *size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(2) * 977, ids=torch.arange(2))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_learns(case: str, size: tuple[int, int]) -> None:
    method, seen = made(case, size)
    if method.teacher is not None:
        flat = seen.unit_pixels()
        if flat.dim() == 5:
            flat = flat.transpose(1, 2).flatten(0, 1)
        double = (size[0] * 2, size[1] * 2)
        resized = F.interpolate(flat, double, mode="bilinear", antialias=True)
        images = method.theirs.images(seen)
        assert images.shape[-2:] == double
        if images.dim() == 5:
            images = images.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(images, OTHER(resized))
    learning = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.01)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        total = method(seen).total
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def table(width: int, grid: tuple[int, int]) -> Tensor:
    """MAE's fixed positions, place by place: the column in the first half, the row in the other."""
    rows = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            place: list[float] = []
            for coordinate in (column, row):
                turns = [coordinate / 10000 ** (4 * k / width) for k in range(width // 4)]
                place += [math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns]
            rows.append(place)
    return torch.tensor(rows)


def plain(model: VisionTransformer, images: Tensor) -> Tensor:
    """The mean patch token of a ViT with fixed positions, as anyone would write it."""
    weights, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    x = F.conv2d(images, weights, bias, stride=model.patch_size)
    x = x.flatten(2).mT + table(model.width, (x.shape[2], x.shape[3]))
    assert model.cls_token is not None
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1)
    for block in model._typed_blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, 2)
        heads = [
            (a @ b.mT / a.shape[2] ** 0.5).softmax(2) @ c
            for a, b, c in zip(q.chunk(2, 2), k.chunk(2, 2), v.chunk(2, 2), strict=True)
        ]
        x = x + block.attn.proj(torch.cat(heads, 2))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return model.norm(x)[:, 1:].mean(1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_feature_is_that_of_a_plain_reference(size: tuple[int, int]) -> None:
    method, seen = made("tinymim-relation", size)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(seen).total.backward()
    optimiser.step()
    student = method.student.eval()
    images = student.normalization(seen.unit_pixels())
    with torch.no_grad():
        torch.testing.assert_close(student.pooled(images), plain(student, images))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("clip", [False, True])
def test_what_moves_down_by_a_patch_moves_by_a_row_of_tokens(
    size: tuple[int, int], clip: bool
) -> None:
    torch.manual_seed(0)
    model = vit(size, position="none", class_token=False, **(
        {"tubelet_size": 2, "num_frames": 4} if clip else {})).eval()  # fmt: skip
    images = torch.rand(2, 3, *((4, *size) if clip else size))
    shape = model.shape(Tap("block", 2))
    assert shape.grid == GRIDS[size]

    def map_of(images: Tensor) -> Tensor:
        return model(images).unflatten(1, (-1, *shape.grid))

    still = map_of(images)
    torch.testing.assert_close(map_of(images.roll(8, -2)), still.roll(1, 2))
    torch.testing.assert_close(map_of(images.roll(8, -1)), still.roll(1, 3))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_resized_map_keeps_rows_and_columns(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    options = {"resize_map": True, "target": "patches", "whitening": "none"}
    method = build("feature_distillation", vit(size), teacher(size, patch_size=32), **options)
    (rows, columns), new = method.grids
    assert (2 * rows, 2 * columns) == new == GRIDS[size]
    downwards = torch.arange(rows).float()[:, None].expand(rows, columns).reshape(1, -1, 1)
    features = F.pad(downwards.expand(1, -1, 40), (0, 0, 1, 0))  # behind a class token
    target = method.target_of(features).unflatten(1, new)
    assert (target - target[:, :, :1]).abs().max() < 1e-5
    assert (target[0, 1:, 0, 0] > target[0, :-1, 0, 0]).all()


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_painted_lies_where_the_patch_is(size: tuple[int, int]) -> None:
    grid = GRIDS[size]
    method, seen = made("mae", size)
    method.painter.norm_pixels = False
    mask = method.mask(seen)
    target = method.reconstruct(seen, mask).target
    images = method.student.normalization(seen.unit_pixels())
    for sample, numbers in enumerate(mask.hidden.tolist()):
        for place, number in enumerate(numbers):
            y, x = 8 * (number // grid[1]), 8 * (number % grid[1])
            patch = images[sample, :, y : y + 8, x : x + 8].permute(1, 2, 0).flatten()
            torch.testing.assert_close(target[sample, place], patch)
    torch.testing.assert_close(method.painter.decoder.pos_embed[0, 1:], table(16, grid))

    method, seen = made("amd-pictures", size)
    torch.testing.assert_close(method.painter.decoder.pos_embed[0, 1:], table(16, grid))
    torch.testing.assert_close(method.generators[0].pos_embed[0, 1:], table(40, grid))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", ["videomae", "videomae-random", "amd"])
def test_cubes_of_a_clip_lie_where_they_are(case: str, size: tuple[int, int]) -> None:
    rows, columns = GRIDS[size]
    method, seen = made(case, size)
    method.painter.norm_pixels = False
    mask = method.mask(seen)
    if case != "videomae-random":  # tubes: the same places in both time slots
        first, second = (mask.visible % (rows * columns)).chunk(2, 1)
        assert torch.equal(first, second)
    pixels = seen.unit_pixels()
    target = method.painter.target(pixels, mask)
    for place in (0, mask.hidden.shape[1] - 1):
        slot, inside = divmod(int(mask.hidden[0, place]), rows * columns)
        y, x = 8 * (inside // columns), 8 * (inside % columns)
        cube = pixels[0, :, 2 * slot : 2 * slot + 2, y : y + 8, x : x + 8]
        torch.testing.assert_close(target[0, place], cube.permute(1, 2, 3, 0).flatten())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tinymim", {}, "in grids of 4x8 and 8x4 \\(rows x columns\\)"),
        ("tinymim", {"target": "feature"}, "in grids of 4x8 and 8x4"),
        ("tinymim", {"target": "class_token", "input": "masked"}, "in grids of 4x8 and 8x4"),
        ("feature_distillation", {}, "map is 4x8 and the teacher's 8x4"),
        ("amd", {}, "has 1 x 4 x 8 tokens and the teacher 1 x 8 x 4"),
    ],
)
def test_as_many_tokens_in_another_grid_are_no_match(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(name, vit((32, 64)), teacher((64, 32)), **options)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 128), (128, 64)], ids=str)
def test_feature_maps_of_a_swin_and_of_a_cnn_meet(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    students: list[Backbone] = [
        create_backbone("swinv2_tiny", image_size=size),
        create_backbone("timm/test_resnet", image_size=size),
    ]
    for student in students:
        theirs = vit(size, patch_size=16, class_token=False)
        method = build("feature_distillation", student, theirs, resize_map=True)
        assert method.grids is None or method.grids[1] == (size[0] // 32, size[1] // 32)
        assert math.isfinite(float(method(batch(size)).total.detach()))
