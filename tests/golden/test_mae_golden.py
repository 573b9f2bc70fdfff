"""MAE against the published code: tables, masks, forward, gradients."""

import pytest
import torch
from names import AS_IT_IS, batch_of, mae_state, published_mask

from vistill.config.methods import MAEConfig
from vistill.heads.hidden_painter import Painting
from vistill.methods.mae import MAE
from vistill.models.positions import resize_position_table, sincos_2d
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import gather_tokens, random_mask
from vistill.tokens.patches import pixel_patches, unpatch_pixels


def build_mae(config: dict, state: dict) -> MAE:
    student = VisionTransformer(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    decoder = {
        "embed_dim": config["decoder_embed_dim"],
        "depth": config["decoder_depth"],
        "num_heads": config["decoder_num_heads"],
    }
    student.normalization = AS_IT_IS
    options = {"mask_ratio": config["mask_ratio"], "norm_pixels": config["norm_pix_loss"]}
    method = MAE(student, MAEConfig(**options, decoder=decoder))
    method.to(next(iter(state.values())).dtype)
    method.load_state_dict(mae_state(state), strict=True)
    return method


def reconstruct(method: MAE, images: torch.Tensor, noise: torch.Tensor) -> Painting:
    """Of normalised images, masked by a given noise."""
    return method.reconstruct(batch_of(images), random_mask(noise, method.config.mask_ratio))


def test_sincos_table(golden):
    case = golden("pos_embed_sincos")
    for dim, grid, class_token in case.config["grid"]:
        table = sincos_2d(dim, (grid, grid), int(class_token))[0]
        expected = case.output[f"d{dim}_g{grid}_c{int(class_token)}"]
        torch.testing.assert_close(table, expected.double(), atol=case.atol, rtol=case.rtol)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_position_table_resize(golden, direction):
    case = golden(f"pos_embed_interpolate_{direction}")
    source, target = case.config["src"], case.config["dst"]
    table = resize_position_table(
        case.inputs["pos_embed"], case.config["extra"], (source, source), (target, target)
    )
    torch.testing.assert_close(table, case.output["pos_embed"], atol=case.atol, rtol=case.rtol)


def test_patches_and_back(golden):
    case = golden("mae_patchify")
    patch = case.config["patch_size"]
    patches = pixel_patches(case.inputs["imgs"], patch)
    assert torch.equal(patches, case.output["patches"])
    side = case.config["img_size"] // patch
    assert torch.equal(unpatch_pixels(patches, patch, (side, side)), case.output["imgs_back"])


@pytest.mark.parametrize("name", ["mae_random_masking", "mae_random_masking_float_truncation"])
def test_random_mask(golden, name):
    case = golden(name)
    mask = random_mask(case.inputs["noise"], case.config["mask_ratio"])
    assert mask.visible.shape[1] == case.info["len_keep"]
    assert torch.equal(mask.visible, case.output["ids_keep"])
    for name, value in published_mask(mask).items():
        assert torch.equal(value, case.output[name])
    assert torch.equal(gather_tokens(case.inputs["x"], mask.visible), case.output["x_masked"])


@pytest.mark.parametrize(
    "name", ["mae_forward_normpix", "mae_forward_rawpix", "mae_forward_normpix_float64"]
)
def test_forward_and_gradients(golden, name):
    case = golden(name)
    method = build_mae(case.config, case.state)
    mask = random_mask(case.inputs["noise"], case.config["mask_ratio"])
    latents = []
    method.painter.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    result = reconstruct(method, case.inputs["imgs"], case.inputs["noise"])
    found = {
        "latent": latents[0],
        "pred": result.prediction,
        "target": result.target,
        "loss": result.loss,
        **published_mask(mask),
    }
    for key, expected in case.output.items():
        if key in ("pred", "target"):  # what is visible is not painted
            expected = gather_tokens(expected, mask.hidden)
        torch.testing.assert_close(
            found[key], expected, atol=case.atol, rtol=case.rtol, check_dtype=False
        )
    result.loss.backward()
    parameters = dict(method.named_parameters())
    for key, expected in mae_state(case.grad).items():
        torch.testing.assert_close(
            parameters[key].grad, expected, atol=case.atol, rtol=case.rtol, msg=key
        )
    for key in mae_state(dict.fromkeys(case.info["grad_none"])):
        assert parameters[key].grad is None
