"""Feature distillation's student ViT against the published code: features, attention, gradients."""

import pytest
import torch

from vistill.models.backbone import Tap
from vistill.models.files.beit import beit_names, own_names
from vistill.models.vit import VisionTransformer

RELATIVE = {"shared_rpb": "shared", "shared_rpb_f64": "shared", "layer_rpb": "layer", "ape": None}


def student(config: dict, state: dict, **changes) -> VisionTransformer:
    """The student of a published configuration with its weights."""
    relative = "shared" if config.get("use_shared_rel_pos_bias") else None
    if config.get("use_rel_pos_bias"):
        relative = "layer"
    model = VisionTransformer(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        layer_scale=config["init_values"],
        position="learned" if config["use_abs_pos_emb"] else "none",
        relative_position=relative,
        qkv_bias="no_key",
        **changes,
    )
    model.to(state["cls_token"].dtype).load_state_dict(own_names(state), strict=True)
    return model.train()


def attention(model: VisionTransformer, images: torch.Tensor, block: int) -> torch.Tensor:
    """Post-softmax maps of a block, which the model itself never makes."""
    qkv = model.tap(images, [Tap("qkv", block)])[Tap("qkv", block)]
    attn = model.blocks[block - 1].attn
    q, k, _ = attn.heads(qkv)
    table = model.rel_pos_bias or attn.rel_pos_bias
    logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    return (logits if table is None else logits + table()).softmax(-1)


@pytest.mark.parametrize("name", list(RELATIVE))
def test_student(golden, name):
    case = golden(f"student_vit_{name}", "fd")
    model = student(case.config["model"], case.state)
    assert model.relative_position == RELATIVE[name]
    images = case.inputs["image"]
    taps = [Tap("block", i) for i in (1, 2, 3)]
    blocks = model.tap(images, taps)
    features = model(images)
    found = {"features": features}
    for i, tap in enumerate(taps):
        found |= {f"block.{i}": blocks[tap], f"attn.{i}": attention(model, images, i + 1)}
    table = model.rel_pos_bias or model.blocks[0].attn.rel_pos_bias
    if table is not None:
        found["relative_position_index"] = table.relative_position_index
        if "rel_pos_bias" in case.output:
            found["rel_pos_bias"] = table()
    assert found.keys() == case.output.keys()
    for key, value in case.output.items():
        torch.testing.assert_close(found[key], value, atol=case.atol, rtol=case.rtol, msg=key)

    (features * case.inputs["cotangent"]).sum().backward()
    gradients = beit_names({k: p.grad for k, p in model.named_parameters()})
    for key, value in case.grad.items():
        torch.testing.assert_close(gradients[key], value, atol=case.atol, rtol=case.rtol, msg=key)


def test_initial_weights(golden):
    expected = golden("init_statistics", "fd").info["pretrain_vit"]
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=64,
        patch_size=16,
        embed_dim=192,
        depth=4,
        num_heads=3,
        layer_scale=0.1,
        position="learned",
        relative_position="shared",
        qkv_bias="no_key",
        initialization="truncated",
    )
    parameters = beit_names(dict(model.named_parameters()))
    for name, statistics in expected.items():
        values = parameters[name].detach()
        # 17 positions of 192 channels are few: their spread has an error of its own.
        spread = 0.03 + 2 / values.numel() ** 0.5
        assert values.std().item() == pytest.approx(statistics["std"], rel=spread, abs=1e-7), name
        assert values.abs().max() <= statistics["absmax"] * 1.01, name
        assert values.mean().item() == pytest.approx(statistics["mean"], abs=1e-3), name
