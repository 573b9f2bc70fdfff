"""Masks, tables, blocks and MAE's parts as the code of AMD and VideoMAE has them (spec amd)."""

import pytest
import torch
from names import AS_IT_IS, batch_of, mae_state, published_mask

from vistill.config.methods import MAEConfig
from vistill.methods.mae import MAE
from vistill.models.files.beit import own_names
from vistill.models.layers import Block
from vistill.models.positions import sincos_1d, sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import (
    clip_mask_sizes,
    gather_tokens,
    nested_mask,
    random_mask,
    tube_visible,
)


def flags(length, *index):
    """uint8 `[B, length]`, 1 at the indices of every set."""
    whole = torch.cat(index, dim=1)
    return torch.zeros(len(whole), length, dtype=torch.uint8).scatter(1, whole, 1)


@pytest.mark.parametrize("name", ["mask_pair_224", "mask_pair_small"])
def test_asymmetric_tubes(golden, name):
    case = golden(name, "amd")
    slots, rows, columns = case.config["window"]
    ratios = case.config["mask_ratio"], case.config["mask_ratio_teacher"]
    sizes = clip_mask_sizes(slots, rows * columns, *ratios, tube=True)
    mask = sizes.mask(case.inputs["perm"].float())
    length = slots * rows * columns
    assert torch.equal(flags(length, mask.hidden), case.output["mask_student"])
    assert torch.equal(flags(length, mask.extra), case.output["mask_diff"])
    assert torch.equal(1 - flags(length, mask.seen), case.output["mask_teacher"])
    assert mask.visible.shape[1] == case.info["visible_student"]
    assert mask.seen.shape[1] == case.info["visible_teacher"]


def test_videomae_tubes(golden):
    case = golden("videomae_mask", "amd")
    slots, rows, columns = case.config["window"]
    sizes = clip_mask_sizes(slots, rows * columns, case.config["mask_ratio"], tube=True)
    mask = sizes.mask(case.inputs["perm"].float())
    assert torch.equal(flags(slots * rows * columns, mask.hidden), case.output["mask"])


def test_random_tokens(golden):
    case = golden("mask_other", "amd")
    length = case.output["random"].numel()
    noise = case.inputs["perm_all"][None].float()
    mask = nested_mask(noise, tube_visible(length, case.config["mask_ratio"]))
    assert torch.equal(flags(length, mask.hidden)[0], case.output["random"])


def test_position_tables(golden):
    for name, table in golden("pos_table", "amd").output.items():
        length, width = map(int, name.removeprefix("table_").split("x"))
        assert torch.allclose(sincos_1d(width, length)[0].float(), table, atol=1e-6, rtol=0)
    for name, table in golden("sincos_2d", "amd").output.items():
        size, width = name.removeprefix("table_").split("_")
        grid = tuple(map(int, size.split("x")))
        assert torch.allclose(sincos_2d(int(width), grid, 1)[0].float(), table, atol=1e-6, rtol=0)


def test_block(golden):
    case = golden("block", "amd")
    config = case.config
    block = Block(config["dim"], config["heads"], config["mlp_ratio"], qkv_bias="no_key")
    block.load_state_dict(own_names(case.state))
    x = case.inputs["x"].requires_grad_()
    y, found = block(x, ["attention"])
    close = {"atol": case.atol, "rtol": case.rtol}
    torch.testing.assert_close(y, case.output["y"], **close)
    torch.testing.assert_close(found["attention"], case.output["attn_out"], **close)
    y.backward(case.inputs["dy"])
    gradients = {n: p.grad for n, p in block.named_parameters()} | {"__input_x": x.grad}
    for name, expected in case.grad.items():
        torch.testing.assert_close(gradients[name], expected, **close)


def test_mae(golden):
    case = golden("mae_pretrain", "amd")
    config = case.config
    student = VisionTransformer(
        image_size=config["img"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
    )
    decoder = {"embed_dim": config["d_dim"], "depth": config["d_depth"]}
    student.normalization = AS_IT_IS
    options = {"mask_ratio": config["mask_ratio"], "norm_pixels": config["norm_pix"]}
    method = MAE(student, MAEConfig(**options, decoder=decoder | {"num_heads": config["d_heads"]}))
    method.load_state_dict(mae_state(case.state))
    mask = random_mask(case.inputs["noise"], config["mask_ratio"])
    latents = []
    method.painter.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    found = method.reconstruct(batch_of(case.inputs["image"]), mask)
    close = {"atol": case.atol, "rtol": case.rtol}
    assert torch.equal(mask.visible, case.output["ids_keep"])
    for name, value in published_mask(mask).items():
        assert torch.equal(value, case.output[name])
    torch.testing.assert_close(latents[0], case.output["latent"], **close)
    torch.testing.assert_close(found.loss, case.output["loss"], **close)
    for value, name in ((found.target, "target"), (found.prediction, "pred")):
        # What is visible is not painted.
        torch.testing.assert_close(value, gather_tokens(case.output[name], mask.hidden), **close)
    found.loss.backward()
    gradients = mae_state(case.grad)
    parameters = dict(method.named_parameters())
    for name, expected in gradients.items():
        torch.testing.assert_close(parameters[name].grad, expected, **close)
