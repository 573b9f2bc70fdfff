import pytest
import torch
from torch import nn

from vistill.batch import Batch
from vistill.config.finetune import FineTuneConfig
from vistill.errors import UserError
from vistill.evaluation.classifier import build_classifier, head_dropout
from vistill.evaluation.finetune import finetune_groups
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer


def vit(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {
        "image_size": 16,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
    } | changes
    return VisionTransformer(**sizes)


class Foreign(nn.Module):
    """A transformer that is none of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        layer = {
            "d_model": 12,
            "nhead": 2,
            "dim_feedforward": 24,
            "dropout": 0.0,
            "batch_first": True,
        }
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(2))
        self.norm = nn.LayerNorm(12)

    def forward(self, images):
        x = self.embed(images).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def hooked() -> ModuleBackbone:
    torch.manual_seed(0)
    return ModuleBackbone(
        Foreign(), blocks="layers", width=12, image_size=16, num_prefix_tokens=0, norm="norm"
    )


def build(backbone, pool="avg", image_size=16, **options):
    options = FineTuneConfig(**options)
    return build_classifier(backbone, 5, image_size=image_size, pool=pool, options=options, seed=0)


def batch(size: int = 6, side: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        pixels=torch.randint(0, 256, (size, 3, side, side), generator=generator).to(torch.uint8),
        seeds=torch.arange(size) * 31,
        ids=torch.arange(size),
        labels=torch.arange(size) % 5,
    )


def test_original_is_left_as_it_is():
    backbone = vit().eval().requires_grad_(False)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    method = build(backbone, num_heads=6, reset_last_block="zero_residual", image_size=32)
    method(batch(side=32)).total.backward()
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert (backbone.num_heads, backbone.image_size) == ((3, 3, 3), (16, 16))
    assert backbone.drop_path_rates == [0.0] * 3
    assert not backbone.training


def test_everything_that_is_reached_is_trained():
    frozen = {n for n, p in build(vit()).named_parameters() if not p.requires_grad}
    assert frozen == {"student.norm.weight", "student.norm.bias"}
    cls = build(vit(), pool="cls")
    assert all(p.requires_grad for p in cls.parameters())


def test_same_batch_same_loss_whatever_the_global_generator():
    method = build(vit(), mixup=0.8, cutmix=1.0, drop_path=0.5).train()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(method(batch()).total)
    assert torch.equal(*losses)
    other = batch()
    other.seeds = other.seeds + 1
    assert not torch.equal(method(other).total, losses[0])


def test_first_loss_is_that_of_no_knowledge():
    loss = build(vit(), label_smoothing=0.0)(batch())
    assert float(loss.total.detach()) == pytest.approx(torch.tensor(5.0).log().item(), abs=1e-3)
    assert loss.terms.keys() == {"cross_entropy"}


def test_drop_path_rises_linearly():
    assert build(vit(), drop_path=0.2).student.drop_path_rates == [0.0, 0.1, 0.2]
    assert build(vit()).student.drop_path_rates == [0.0, 0.05, 0.1]
    assert build(vit(depth=1), drop_path=0.2).student.drop_path_rates == [0.0]


def test_zero_residual_makes_the_last_block_the_identity():
    backbone = build(vit(), reset_last_block="zero_residual").student.eval()
    images = torch.randn(2, 3, 16, 16)
    taps = [Tap("block", 2), Tap("block", 3)]
    found = backbone.tap(images, taps)
    assert torch.equal(found[taps[0]], found[taps[1]])


def test_a_foreign_transformer_is_fine_tuned_with_layer_decay():
    method = build(hooked())
    options = FineTuneConfig(layer_decay=0.5)
    losses = method(batch())
    losses.total.backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    assert not any(name.startswith("student.module.norm.") for name in trained)
    scale = {
        id(p): group["lr_scale"]
        for group in finetune_groups(method, options)
        for p in group["params"]
    }
    assert scale.keys() == {id(p) for p in trained.values()}
    assert scale[id(trained["student.module.embed.weight"])] == 0.5**3
    assert scale[id(trained["student.module.layers.1.linear1.weight"])] == 0.5
    assert scale[id(trained["head.weight"])] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 0.1}, "finetune.drop_path cannot be set"),
        ({"num_heads": 4}, "finetune.num_heads cannot be set"),
        ({"reset_last_block": "zero_residual"}, "needs attn.proj"),
        ({"image_size": 32}, "image_size cannot be set"),
        ({"pool": "cls"}, "pool=cls needs a class token"),
    ],
)
def test_what_a_foreign_transformer_cannot_do_is_told(options, message):
    with pytest.raises(UserError, match=message):
        build(hooked(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide"),
        ({"image_size": 20}, "image_size=20 does not suit"),
    ],
)
def test_sizes_that_do_not_fit_are_told(options, message):
    with pytest.raises(UserError, match=message):
        build(vit(), **options)


def test_head_dropout_keeps_the_mean_and_belongs_to_the_sample():
    seeds = torch.arange(50) * 7919
    features = torch.ones(50, 400)
    dropped = head_dropout(features, seeds, 0.5)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(head_dropout(features, seeds.flip(0), 0.5), dropped.flip(0))


@pytest.mark.parametrize(
    "options",
    [
        {"random_erasing": 1.0},
        {"mixup": 0.8},
        {"cutmix": 1.0},
        {"head_dropout": 0.5},
        {"drop_path": 0.9},
    ],
    ids=str,
)
def test_what_is_random_in_training_comes_from_the_seeds(options):
    quiet = {"random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "head_init": "uniform"}
    method = build(vit(), **(quiet | {"drop_path": 0.0} | options)).train()
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seeds, ids = torch.arange(4) * 977 + 3, torch.arange(4)

    def loss(seeds: torch.Tensor, ids: torch.Tensor) -> float:
        return method(Batch(pixels, seeds=seeds, ids=ids, labels=torch.arange(4))).total.item()

    once = loss(seeds, ids)
    torch.rand(7)  # not from the global generator
    assert loss(seeds, ids) == once
    assert loss(seeds, ids + 100) == once
    assert loss(seeds + 5, ids) != once
