"""ADE20K as TinyMIM's code trains on it: maps, heads, window, groups and rates (spec 9)."""

import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vistill.config.segmentation import SegmentationConfig
from vistill.evaluation.segmentation.segmenter import Segmenter, pixel_loss
from vistill.evaluation.segmentation.sliding import slide
from vistill.heads.uper import FCNHead, SimplePyramid, UperHead, WidePyramid, enlarged
from vistill.models.maps import FeatureMaps
from vistill.models.vit import VisionTransformer
from vistill.training.schedule import learning_rate

_NAMES = (
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
    (r"attn\.relative_position_bias_table", "attn.rel_pos_bias.relative_position_bias_table"),
)


def our_name(name: str) -> str:
    """vistill's name of one of theirs."""
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name


def their_name(name: str) -> str:
    """The published name of one of ours."""
    name = re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", name)
    return name.replace("attn.rel_pos_bias.", "attn.")


def vit(model: dict, **other) -> VisionTransformer:
    return VisionTransformer(
        image_size=model["img_size"],
        patch_size=model["patch_size"],
        embed_dim=model["embed_dim"],
        depth=model["depth"],
        num_heads=model["num_heads"],
        position="learned",
        relative_position="layer",
        layer_scale=model["init_values"],
        **other,
    ).eval()


def test_backbone(golden):
    case = golden("seg_backbone")
    backbone = vit(case.config["model"])
    neck = SimplePyramid(backbone.width).eval()
    of_neck = {k: v for k, v in case.state.items() if k.startswith("fpn")}
    rest = {our_name(k): v for k, v in case.state.items() if k not in of_neck}
    told = backbone.load_state_dict(rest, strict=False)
    assert not told.unexpected_keys
    assert {key.partition(".")[0] for key in told.missing_keys} == {"norm"}
    told = neck.load_state_dict(of_neck, strict=False)
    assert not told.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in told.missing_keys)
    maps = FeatureMaps(backbone)
    assert maps.plain
    maps.blocks = [number + 1 for number in case.config["model"]["out_indices"]]
    with torch.no_grad():
        found = neck(maps(case.inputs["imgs"]))
    for number, one in enumerate(found):
        expected = case.output[f"feature{number}"]
        torch.testing.assert_close(one, expected, atol=case.atol, rtol=case.rtol)
    index = backbone.blocks[0].attn.rel_pos_bias.relative_position_index
    assert torch.equal(index, case.output["relative_position_index"].long())


def by_rule(names: dict[str, torch.Size], rule: dict) -> dict[str, torch.Tensor]:
    """Weights that a case does not store, by their names."""
    made = {}
    for name, shape in names.items():
        rng = np.random.default_rng(rule["seed"] + zlib.crc32(name.encode()))
        values = torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * rule["std"])
        if name.endswith("running_var"):
            values = values.abs() + 0.5
        elif (len(shape) == 1 and name.endswith(".weight")) or "gamma_" in name:
            values = values + 1
        made[name] = values
    return made


def test_backbone_of_tinymim_star(golden):
    case = golden("seg_backbone_star")
    backbone = vit(case.config["model"], distillation_token=True)
    neck = WidePyramid(backbone.width).eval()
    skipped = ("num_batches_tracked", "norm.weight", "norm.bias")
    loaded = 0
    for module in (backbone, neck):
        own = module.state_dict()
        theirs = {name: their_name(name) for name in own}
        names = {
            theirs[name]: value.shape
            for name, value in own.items()
            if not name.endswith(skipped[0]) and name not in skipped
        }
        state = by_rule(names, case.config["state_rule"])
        told = module.load_state_dict(
            {name: state[theirs[name]] for name in own if theirs[name] in state}, strict=False
        )
        assert all(name.endswith(skipped) for name in told.missing_keys)
        loaded += sum(v.numel() for k, v in state.items() if "running" not in k)
    assert loaded == case.info["n_params"]
    maps = FeatureMaps(backbone)
    assert maps.blocks == [number + 1 for number in case.config["model"]["out_indices"]]
    with torch.no_grad():
        found = neck(maps(case.inputs["imgs"]))
    for number, one in enumerate(found):
        expected = case.output[f"feature{number}"]
        some = one[:, :: case.config["subsample"]]
        torch.testing.assert_close(some, expected, atol=case.atol, rtol=case.rtol)
    index = backbone.blocks[0].attn.rel_pos_bias.relative_position_index
    assert torch.equal(index, case.output["relative_position_index"].long())


@pytest.mark.parametrize("name", ["seg_uperhead", "seg_auxhead"])
def test_head(golden, name):
    case = golden(name)
    widths = [shape[0] for shape in case.config["feats"]]
    channels, classes = (case.config["kwargs"][key] for key in ("channels", "num_classes"))
    maps = [case.inputs[f"feature{number}"] for number in range(4)]
    head: nn.Module
    if name == "seg_uperhead":
        head, seen = UperHead(widths, channels, classes), maps
    else:
        seen = maps[case.config["kwargs"]["in_index"]]
        head = FCNHead(widths[2], channels, classes)
    told = head.load_state_dict(case.state, strict=False)
    assert not told.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in told.missing_keys)
    with torch.no_grad():
        found = head.eval().conv_seg(head.features(seen))
    torch.testing.assert_close(found, case.output["logits_eval"], atol=case.atol, rtol=case.rtol)
    labels = case.inputs["labels"][:, 0].long()
    logits = head.train().conv_seg(head.features(seen))
    loss = pixel_loss(enlarged(logits, case.inputs["labels"]), labels)
    loss = loss * case.config["kwargs"]["loss_decode"]["loss_weight"]
    loss.backward()
    torch.testing.assert_close(loss, case.output["loss_train"], atol=case.atol, rtol=case.rtol)
    torch.testing.assert_close(
        head.conv_seg.weight.grad, case.grad["conv_seg.weight"], atol=case.atol, rtol=case.rtol
    )


def test_window(golden):
    case = golden("seg_slide_inference")
    crop, stride = (tuple(case.config[key]) for key in ("crop", "stride"))
    for at_once in (1, 4):
        found = slide(
            case.inputs["img"],
            crop,
            stride,
            lambda some: some - some.mean(dim=(2, 3), keepdim=True),
            at_once=at_once,
        )
        whole = nn.functional.interpolate(
            found, tuple(case.config["ori"]), mode="bilinear", align_corners=False
        )
        expected = case.output["pred"]
        torch.testing.assert_close(whole, expected, atol=case.atol, rtol=case.rtol)


def test_groups(golden):
    case = golden("seg_layer_decay_groups")
    options = SegmentationConfig(recipe="tinymim_base", channels=8)
    made = Segmenter(vit(case.config["model"]), 3, options)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in made.groups()
        for parameter in group["params"]
    }
    compared = 0
    for name, expected in case.info["params"].items():
        if name.startswith("backbone."):
            ours = "student." + our_name(name.removeprefix("backbone."))
            ours = ours.replace("student.fpn", "neck.fpn")
            assert found[ours] == pytest.approx(tuple(expected), rel=case.rtol), name
            compared += 1
    assert compared == sum(k.startswith("student.") for k in found) - 2 + len(
        [k for k in found if k.startswith("neck.")]
    )
    rest = {value for name, value in found.items() if name.startswith(("head.", "auxiliary."))}
    assert rest == {(1.0, 0.05), (1.0, 0.0)}


def test_rates(golden):
    case = SimpleNamespace(**vars(golden("seg_lr_schedule")))
    for step, expected in case.info["values"]:
        found = learning_rate(
            step,
            lr=1e-4,
            min_lr=0.0,
            warmup_epochs=1500,
            epochs=160_000,
            warmup_lr=1e-10,
            schedule="poly",
            power=1.0,
            warmup_multiplies=True,
        )
        assert found == pytest.approx(expected, rel=case.rtol)
