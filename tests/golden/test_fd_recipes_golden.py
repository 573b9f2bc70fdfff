"""The packaged recipes of feature distillation against the settings of the published ones."""

import pytest

from vistill.config.finetune import FineTuneConfig
from vistill.config.loading import load_config
from vistill.config.overrides import parse_overrides
from vistill.models.sizes import SWIN_SIZES

NAMES = {
    "clip_vit_base__img224__100ep": "fd_clip_base_100ep",
    "clip_vit_base__img224__300ep": "fd_clip_base",
    "clip_vit_large__img224__300ep": "fd_clip_large",
    "deit_vit_base__img224__300ep": "fd_deit_base",
    "dino_vit_base__img224__300ep": "fd_dino_base",
    "esvit_swin_base__img224__300ep": "fd_esvit_swin",
}
SIZES = {"vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}


def published(golden, stage: str, name: str) -> dict:
    rows = golden("recipes", "fd").info[stage]
    return next(row for row in rows if row["file"] == f"fd_{stage}__{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_pretraining(golden, name):
    expected = published(golden, "pretrain", name)
    ours = load_config(NAMES[name], parse_overrides([]))
    optim, student = ours.optim, ours.student
    scale = ours.train.global_batch_size / 512
    assert optim.base_lr * 2 == pytest.approx(expected["base_lr_per_512"])
    assert optim.warmup_lr == pytest.approx(expected["warmup_lr_per_512"] * scale)
    assert optim.min_lr == pytest.approx(expected["min_lr_per_512"] * scale)
    assert (optim.warmup_epochs, ours.train.epochs) == (
        expected["warmup_epochs"],
        expected["epochs"],
    )
    assert optim.weight_decay == expected["weight_decay"]
    assert optim.clip_norm == expected["clip_grad"]
    assert (list(optim.betas), optim.eps) == (expected["betas"], expected["eps"])
    assert list(ours.data.crop_scale) == expected["crop_scale"]
    assert (ours.data.image_size, ours.data.interpolation) == (expected["img"], "bilinear")
    assert student.drop_path == expected["drop_path"]
    assert ours.method.after_norm == expected["after_norm"]
    if "swin" in expected:
        swin, size = expected["swin"], SWIN_SIZES[student.model]
        found = (size.embed_dim, list(size.depths), list(size.num_heads))
        assert found == (swin["embed_dim"], swin["depths"], swin["num_heads"])
        return
    vit = expected["vit"]
    assert student.patch_size == vit["patch_size"]
    assert SIZES[student.model] == (vit["embed_dim"], vit["depth"], vit["num_heads"])
    assert student.layer_scale == vit["init_values"]
    assert (student.relative_position == "shared") == vit["use_shared_rpb"]
    assert (student.position != "none") == vit["use_ape"]
    assert student.qkv_bias == "no_key"
    assert (student.class_token is not False) == vit["with_cls_token"]  # pictures have one


@pytest.mark.parametrize("name", NAMES)
def test_finetuning(golden, name):
    expected = published(golden, "finetune", name)
    ours = FineTuneConfig(recipe=NAMES[name])
    scale = ours.global_batch_size / 512
    assert ours.global_batch_size == expected["batch_per_gpu"] * 16
    assert (ours.epochs, ours.warmup_epochs) == (expected["epochs"], expected["warmup_epochs"])
    assert ours.base_lr * 2 == pytest.approx(expected["base_lr_per_512"])
    assert ours.warmup_lr == pytest.approx(expected["warmup_lr_per_512"] * scale)
    assert ours.min_lr == pytest.approx(expected["min_lr_per_512"] * scale)
    assert (ours.layer_decay, ours.drop_path) == (expected["layer_decay"], expected["drop_path"])
    assert (ours.weight_decay, ours.clip_norm) == (expected["weight_decay"], expected["clip_grad"])
    assert ours.label_smoothing == expected["label_smoothing"]
