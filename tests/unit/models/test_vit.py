"""The ViT: timm's names and numbers, taps, early exit, token subsets, positions, drop path."""

import json

import pytest
import timm
import torch

from vistill.models.backbone import Tap
from vistill.models.layers import Block
from vistill.models.timm_form import exported_state, timm_form
from vistill.models.vit import VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def small(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SMALL | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_token": False},
        {"layer_scale": 0.1},
        {"position": "learned"},
        {"mlp_ratio": 3.0},
        {"qkv_bias": "none"},
        {"distillation_token": True},
        {"pre_norm": True, "activation": "quick_gelu", "norm_eps": 1e-5, "position": "learned"},
        {"relative_position": "shared", "position": "none", "qkv_bias": "no_key"},
        {"relative_position": "layer", "layer_scale": 0.1, "qkv_bias": "no_key"},
    ],
)
def test_loads_strictly_into_timm_with_the_same_output(changes):
    model = small(**changes).eval()
    torch.nn.init.normal_(model.norm.weight), torch.nn.init.normal_(model.norm.bias)
    form = timm_form(model)
    other = timm.create_model(**json.loads(json.dumps(form.arguments))).eval()
    other.load_state_dict(exported_state(model), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            model(images), other.forward_features(images), atol=1e-5, rtol=1e-5
        )
        feature = eval(form.feature, {"model": other, "x": images})
        torch.testing.assert_close(model.pooled(images), feature, atol=1e-5, rtol=1e-5)
    # Only of DeiT's distilled students timm cannot be told to average the patches.
    assert (form.feature == "model(x)") == ("distillation_token" not in changes)


@pytest.mark.parametrize(
    ("tap", "blocks", "projections"),
    [(Tap("qkv", 2), 2, 1), (Tap("cls_attention", 2), 2, 1), (Tap("attention", 2), 2, 2),
     (Tap("block", 1), 1, 1), (Tap("norm", 3), 3, 3)],
)  # fmt: skip
def test_runs_no_further_than_the_deepest_tap(tap, blocks, projections):
    model = small()
    called = {"blocks": 0, "projections": 0}

    def count(name):
        def hook(*_):
            called[name] += 1

        return hook

    for block in model.blocks:
        assert isinstance(block, Block)
        block.register_forward_hook(count("blocks"))
        block.attn.proj.register_forward_hook(count("projections"))
    model.tap(torch.randn(1, 3, 32, 32), [tap])
    assert called == {"blocks": blocks, "projections": projections}


@pytest.mark.parametrize("scale", [None, 0.7])
def test_class_attention_is_the_first_row_of_the_map(scale):
    model = small(qk_scale=scale).eval()
    tap, qkv = Tap("cls_attention", 2), Tap("qkv", 2)
    found = model.tap(torch.randn(2, 3, 32, 32), [tap, qkv])
    q, k, _ = model.blocks[1].attn.heads(found[qkv])
    maps = (q @ k.transpose(2, 3) * (scale or q.shape[-1] ** -0.5)).softmax(-1)
    torch.testing.assert_close(found[tap], maps[:, :, 0])
    torch.testing.assert_close(found[tap].sum(-1), torch.ones(2, 2))


def test_hidden_patches_cannot_be_seen():
    model = small().eval()
    images = torch.randn(2, 3, 32, 32)
    visible = torch.tensor([[3, 0, 7], [15, 1, 2]])
    changed = images.clone()
    changed[0, :, 24:, 24:] = 9.0  # patch 15, hidden in the first sample
    tap = Tap("norm", 3)
    first = model.tap(images, [tap], visible=visible)[tap]
    second = model.tap(changed, [tap], visible=visible)[tap]
    assert first.shape == (2, 4, 24)
    assert torch.equal(first[0], second[0])


def test_visible_tokens_in_any_order_give_the_same_class_token():
    model = small().eval()
    images = torch.randn(1, 3, 32, 32)
    tap = Tap("norm", 3)
    everything = torch.arange(16)[None]
    shuffled = everything[:, torch.randperm(16)]
    a = model.tap(images, [tap], visible=everything)[tap][:, 0]
    b = model.tap(images, [tap], visible=shuffled)[tap][:, 0]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a, model(images)[:, 0], atol=1e-5, rtol=1e-5)


def test_drop_path_keeps_the_sample_or_the_branch():
    model = small()
    model.set_drop_path([0.0, 0.5, 0.0])
    assert model.num_drop_path_draws == 2
    images = torch.randn(2, 3, 32, 32)
    before, after = Tap("block", 1), Tap("block", 2)
    dropped = torch.tensor([[0.0, 0.99], [0.0, 0.99]])
    found = model.tap(images, [before, after], drop_path_noise=dropped)
    assert torch.equal(found[before][0], found[after][0])
    assert not torch.equal(found[before][1], found[after][1])
    model.eval()
    assert torch.equal(model(images), model(images))


def test_resize_keeps_the_class_row_and_accepts_the_new_size():
    model = small()
    row = model.pos_embed[:, 0].clone()
    model.resize(48)
    assert model.pos_embed.shape == (1, 37, 24)
    assert torch.equal(model.pos_embed[:, 0], row)
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 37, 24)
    with pytest.raises(ValueError, match="multiple of the patch size"):
        model.resize(50)


@pytest.mark.parametrize("shared", ["shared", "layer"])
def test_relative_position_bias_reaches_every_block(shared):
    model = small(relative_position=shared).eval()
    tables = [p for name, p in model.named_parameters() if name.endswith("bias_table")]
    assert len(tables) == (1 if shared == "shared" else 3)
    with torch.no_grad():
        for table in tables:
            table[:-3] = -torch.inf  # no patch may look at a patch
            table[-3] = -torch.inf  # nor the class token
    for block in (1, 2, 3):
        found = model.tap(torch.randn(1, 3, 32, 32), [Tap("cls_attention", block)])
        assert torch.all(found[Tap("cls_attention", block)][:, :, 0] == 1)


def test_visible_tokens_keep_their_relative_positions():
    model = small(relative_position="shared", position="none").eval()
    torch.nn.init.normal_(model.rel_pos_bias.relative_position_bias_table)
    images = torch.randn(2, 3, 32, 32)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    tap = Tap("norm", 3)
    shuffled = model.tap(images, [tap], visible=order)[tap][:, 1:]
    straight = model(images)[:, 1:]
    expected = straight.gather(1, order[:, :, None].expand(-1, -1, 24))
    torch.testing.assert_close(shuffled, expected)


def test_unsharing_and_resizing_keep_the_function():
    model = small(relative_position="shared", position="none", qkv_bias="no_key").eval()
    torch.nn.init.normal_(model.rel_pos_bias.relative_position_bias_table)
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    model.unshare_relative_position()
    torch.testing.assert_close(model(images), before)
    assert model.build["args"]["relative_position"] == "layer"
    model.resize(48)
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 37, 24)


def test_clips_become_tubelets_and_tables_follow_the_flattened_index():
    model = small(tubelet_size=2, num_frames=4, class_token=False)
    assert model.num_patches == 32
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 32, 24)
    table = model.pos_embed[0]
    assert table[5, 0] == pytest.approx(torch.tensor(5.0).sin().item(), abs=1e-6)
    assert table[5, 1] == pytest.approx(torch.tensor(5.0).cos().item(), abs=1e-6)


def test_activation_checkpointing_changes_no_gradient():
    images = torch.randn(2, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        model = small()
        model.activation_checkpointing = recompute
        model(images).square().mean().backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_wrong_taps_are_refused():
    model = small(class_token=False)
    for tap in (Tap("block", 4), Tap("block", 0), Tap("cls_attention", 1)):
        with pytest.raises(ValueError, match="no tap"):
            model.tap(torch.randn(1, 3, 32, 32), [tap])


@pytest.mark.parametrize("tokens", ["none", "class", "both"])
def test_class_scores_are_read_from_the_tokens_there_are(tokens):
    """The mean patch, the class token, or the mean of both heads of DeiT's distilled models."""
    kinds = {"class_token": tokens != "none", "distillation_token": tokens == "both"}
    model = small(num_classes=5, **kinds).eval()
    for head in (model.head, getattr(model, "head_dist", model.head)):
        torch.nn.init.normal_(head.weight)
        torch.nn.init.normal_(head.bias)
    taps = [Tap("norm", 3), Tap("logits", 3)]
    with torch.no_grad():
        found = model.tap(torch.randn(2, 3, 32, 32), taps)
        x = found[taps[0]]
        expected = model.head(x.mean(dim=1) if tokens == "none" else x[:, 0])
        if tokens == "both":
            expected = (expected + model.head_dist(x[:, 1])) / 2
    torch.testing.assert_close(found[taps[1]], expected)
