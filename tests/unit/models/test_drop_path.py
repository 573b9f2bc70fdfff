"""Stochastic depth of Swins and of other libraries' models follows the draws that are handed in."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import ConvNeXt
from torchvision.models.convnext import CNBlockConfig

from vistill.batch import Batch
from vistill.config.methods import FeatureDistillationConfig
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.side import Side
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Tap
from vistill.models.drop_path import DropPath, drawn, paths
from vistill.models.swin import SwinBackbone
from vistill.random import Stream


def swin(version: int) -> SwinBackbone:
    sizes = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 2}
    model = SwinBackbone(version=version, image_size=16, patch_size=2, **sizes)
    model.set_drop_path([0.0, 0.5, 0.5, 0.5])
    return model


def of_timm() -> ModuleBackbone:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    module = timm.create_model("vit_tiny_patch16_224", **sizes, num_classes=0, drop_path_rate=0.6)
    return ModuleBackbone(module, blocks="blocks", width=16, image_size=16, norm="norm")


def of_torchvision() -> PooledBackbone:
    stages = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)]
    module = ConvNeXt(stages, layer_scale=1.0, stochastic_depth_prob=0.6)
    return PooledBackbone(module, image_size=32)


def of_transformers() -> ModuleBackbone:
    from transformers import BeitConfig, BeitModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BeitConfig(**sizes, intermediate_size=32, image_size=16, patch_size=8,
                        drop_path_rate=0.6, use_mask_token=False)  # fmt: skip
    module = BeitModel(config)
    blocks = [name for name, part in module.named_modules() if type(part).__name__ == "BeitLayer"]
    return ModuleBackbone(module, blocks=blocks, width=16, image_size=16)


MODELS = {
    "swin": lambda: swin(1),
    "swinv2": lambda: swin(2),
    "timm": of_timm,
    "torchvision": of_torchvision,
    "transformers": of_transformers,
}


def signal(model, images, noise):
    tap = Tap("block" if model.depth else "pooled", model.depth)
    return model.tap(images, [tap], drop_path_noise=noise)[tap].detach()


@pytest.mark.parametrize("kind", MODELS)
def test_a_sample_s_branches_follow_its_own_seed(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight, 1.0, 0.2)  # SwinV2's blocks begin close to the identity
    images = torch.randn(6, 3, *model.image_size)
    batch = Batch(images, seeds=torch.arange(6) + 40, ids=torch.arange(6))
    noise = Side(model, "student", Stream.DROP_PATH).draws(batch)
    assert noise is not None
    assert noise.shape == (model.num_drop_path_draws, 6)
    assert len(noise) == {"torchvision": 3, "timm": 4, "transformers": 2}.get(kind, 6)
    torch.manual_seed(1)
    whole = signal(model, images, noise)
    torch.manual_seed(2)
    halves = [signal(model, images[half], noise[:, half]) for half in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(halves), whole)
    others = signal(model, images, noise.roll(1, 1))
    assert (others - whole).abs().amax(dim=tuple(range(1, whole.dim()))).max() > 1e-4
    still = model.eval()
    assert torch.equal(signal(still, images, noise), signal(still, images, None))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("recomputed", [False, True])
def test_zeros_drop_every_branch_and_high_draws_scale_them(version, recomputed):
    torch.manual_seed(0)
    model = swin(version).train()
    model.activation_checkpointing = recomputed
    images = torch.randn(3, 3, 16, 16)
    taps = [Tap("block", 1), Tap("block", 2)]
    first, second = model.tap(images, taps, drop_path_noise=torch.zeros(6, 3)).values()
    assert torch.equal(first, second)
    kept = model.tap(images, taps, drop_path_noise=torch.full((6, 3), 0.6))
    block = model.blocks[1].eval()
    x = kept[taps[0]].unflatten(1, (8, 8))
    if version == 1:
        expected = x + 2 * block._attn(block.norm1(x))
        expected = expected + 2 * block.mlp(block.norm2(expected))
    else:
        expected = x + 2 * block.norm1(block._attn(x))
        expected = expected + 2 * block.norm2(block.mlp(expected))
    torch.testing.assert_close(kept[taps[1]], expected.flatten(1, 2))


def test_a_recomputed_pass_has_the_same_gradient():
    found = []
    noise = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    for recomputed in (False, True):
        torch.manual_seed(0)
        model = swin(1).train()
        model.activation_checkpointing = recomputed
        images = torch.randn(4, 3, 16, 16)
        tap = Tap("norm", 4)
        total = model.tap(images, [tap], drop_path_noise=noise)[tap].square().sum()
        model.tap(images, [tap], drop_path_noise=noise.flip(1))  # another pass in between
        total.backward()
        found.append(model.module.patch_embed.proj.weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_a_part_of_another_batch_keeps_its_own_draws():
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = DropPath(0.5)

        def forward(self, x):
            return self.inside(x.flatten(0, 1)).view_as(x)

    module = Folded().train()
    assert [rate for _, rate in paths(timm.layers.DropPath(0.25))] == [0.25]
    with drawn(module, torch.zeros(len(paths(module)), 2)):
        torch.manual_seed(0)
        assert module(torch.ones(2, 8, 3)).sum() > 0


def gradient(student, teacher, batches, seed):
    config = FeatureDistillationConfig(target="pooled")
    method = FeatureDistillation(student, teacher, config, drop_path=0.5).train()
    torch.manual_seed(seed)  # of another rank, or behind a resume
    for batch in batches:
        (method(batch).total / len(batches)).backward()
    return {name: p.grad.clone() for name, p in method.student.named_parameters()
            if p.grad is not None}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_micro_batches_and_the_global_generator_change_nothing(version):
    teacher = swin(1).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 16, 16, generator=generator)
    whole = Batch(pixels, seeds=torch.arange(4) + 40, ids=torch.arange(4))
    found = []
    for batches in ([whole], [whole.take(torch.tensor([0, 2])), whole.take(torch.tensor([1, 3]))]):
        torch.manual_seed(0)
        found.append(gradient(swin(version), teacher, batches, seed=len(found)))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-4, msg=name)
