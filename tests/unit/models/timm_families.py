"""A small student of every family of timm that has one, for the tests of exports."""

from typing import Any

import pytest
import timm

from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

SIZES = (64, 96)
_SHALLOW = {"depths": (1, 1, 1, 1)}

STUDENTS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"embed_dim": 96, "depth": 2, "num_heads": 3},
    "beitv2_base_patch16_224": {"embed_dim": 96, "depth": 2, "num_heads": 3},
    "cait_xxs24_224": {"depth": 2},
    "coatnet_pico_rw_224": {},
    "convit_tiny": {"depth": 3},
    "convnextv2_atto": {},
    "cpubone_nano": {},
    "cs3darknet_s": {},
    "csatv2": {},
    "cspnext_tiny": {},
    "davit_tiny": _SHALLOW,
    "deit3_small_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "deit_tiny_patch16_224": {"depth": 2},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "dla46x_c": {},
    "dpn48b": {},
    "edgenext_xx_small": {},
    "efficientformerv2_s0": {},
    "efficientvim_m1": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "ese_vovnet19b_slim_dw": {},
    "eva02_tiny_patch14_224": {"depth": 2},
    "fasternet_t0": {},
    "fastvit_t8": {},
    "focalnet_tiny_srf": {},
    "gcvit_xxtiny": {},
    "ghostnet_050": {},
    "ghostnetv2_100": {},
    "hardcorenas_b": {},
    "hgnetv2_b0": {},
    "iformer_t": {},
    "inception_next_atto": {},
    "lcnet_035": {},
    "lcnetv2_small": {},
    "legacy_seresnet18": {},
    "lowformer_b0": {},
    "maxvit_pico_rw_256": {},
    "mobilenetv3_small_050": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "nest_tiny": {},
    "poolformerv2_s12": {},
    "pvt_v2_b0": {},
    "rdnet_tiny": {},
    "regnetx_002": {},
    "repghostnet_050": {},
    "repvit_m1": {},
    "res2next50": {"layers": (1, 1, 1, 1)},
    "resnest14d": {},
    "resnet10t": {},
    "resnetv2_18": {"layers": (1, 1, 1, 1)},
    "rexnet_100": {},
    "sequencer2d_s": {"layers": (1, 1, 1, 1)},
    "shvit_s1": {},
    "skresnet18": {"layers": (1, 1, 1, 1)},
    "starnet_s050": {},
    "swiftformer_xs": {},
    "swin_tiny_patch4_window7_224": _SHALLOW,
    "swinv2_cr_tiny_ns_224": _SHALLOW,
    "swinv2_tiny_window8_256": _SHALLOW,
    "test_byobnet": {},
    "test_coatnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_maxvit": {},
    "test_nfnet": {},
    "test_resnet": {},
    "test_vit": {},
    "test_vit2": {},
    "test_vit_relpos": {},
    "tiny_vit_5m_224": {},
    "visformer_tiny": {},
    "xcit_nano_12_p8_224": {"depth": 2},
    "vit_small_patch16_dinov3": {"depth": 2},
    "vit_tiny_patch16_224": {"depth": 2},
    "vit_tiny_r_s16_p8_224": {"depth": 2},
}
"""By timm's name; what makes a large one smaller."""

REFUSED = ("hiera_tiny_224", "levit_128s", "mvitv2_tiny", "pit_ti_224", "coat_tiny")
"""Families that are no students, as they cannot be read: hierarchies of tokens out of order."""


def build_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `timm.create_model` build these students in their smaller form, for whoever asks."""
    build = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda model_name, **k: build(model_name, **STUDENTS.get(model_name, {}) | k),
    )


def student(name: str, image_size: int) -> Backbone:
    """A student whose norms have learned something."""
    import torch

    torch.manual_seed(0)
    if "patch14" in name:
        image_size = image_size // 16 * 14
    backbone = create_backbone(f"timm/{name}", image_size=image_size).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    return backbone
