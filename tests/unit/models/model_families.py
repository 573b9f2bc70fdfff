"""A small model of every family of pictures that a library builds, and what became of it.

Families of transformers are model types, of timm its modules; the rest go by their names.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import transformers
from timm.models import list_modules
from transformers.models.auto import modeling_auto
from transformers_families import CNN, SWIN, TEXT, WIDE

from vistill.errors import UserError
from vistill.models.adapters.timm import read_module
from vistill.models.backbone import Backbone
from vistill.models.build import load_backbone

RATIO = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 32,
    "patch_size": 8,
}
RESNET = {
    "model_type": "resnet",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "embedding_size": 8,
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
DETR = {
    "backbone_config": RESNET,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 5,
}
PYRAMID = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": WIDE,
    "beit": WIDE,
    "bit": CNN | {"embedding_size": 8, "num_groups": 4},
    "clip": {"vision_config": WIDE, "text_config": TEXT},
    "cohere2_vision": {
        "vision_config": WIDE | {"model_type": "siglip_vision_model"},
        "text_config": TEXT | {"model_type": "cohere2", "num_key_value_heads": 2, "head_dim": 8},
    },
    "conditional_detr": DETR,
    "convnext": CNN,
    "convnextv2": CNN,
    "cvt": {
        "embed_dim": [8, 16, 32],
        "num_heads": [1, 2, 2],
        "depth": [1, 2, 3],
        "drop_path_rate": [0.0, 0.0, 0.0],
    },
    "dab-detr": {k: v for k, v in DETR.items() if k != "d_model"} | {"hidden_size": 16},
    "data2vec-vision": WIDE,
    "deformable_detr": DETR | {"num_feature_levels": 3, "d_model": 32},
    "deit": WIDE,
    "depth_pro": {
        "patch_size": 32,
        "scaled_images_ratios": [0.5, 1],
        "scaled_images_overlap_ratios": [0.0, 0.5],
        "scaled_images_feature_dims": [16, 16],
        "intermediate_hook_ids": [1],
        "intermediate_feature_dims": [16],
        "fusion_hidden_size": 16,
        "image_model_config": RATIO | {"model_type": "dinov2"},
        "patch_model_config": RATIO | {"model_type": "dinov2"},
        "fov_model_config": RATIO | {"model_type": "dinov2"},
    },
    "detr": DETR,
    "table-transformer": DETR,
    "dinat": {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "dilations": [[1], [1]],
        "kernel_size": 3,
    },
    "dinov2": RATIO,
    "dinov2_with_registers": RATIO | {"num_register_tokens": 3},
    "dinov3_convnext": CNN,
    "dinov3_vit": WIDE | {"num_register_tokens": 2},
    "donut-swin": SWIN,
    "maskformer-swin": SWIN,
    "dpt": WIDE | {"backbone_out_indices": [0, 1, 2], "neck_hidden_sizes": [8, 8, 8]},
    "efficientnet": {
        "image_size": 64,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "hidden_dim": 320,
    },
    "focalnet": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "glpn": PYRAMID,
    "segformer": PYRAMID,
    "pvt": PYRAMID | {"image_size": 64},
    "pvt_v2": PYRAMID | {"image_size": 64},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 8, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [8, 16, 16, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "embedding_size": 8,
    },
    "hiera": {
        "embed_dim": 8,
        "image_size": [64, 64],
        "depths": [1, 1, 1],
        "num_heads": [1, 1, 2],
        "masked_unit_size": [8, 8],
        "num_query_pool": 2,
        "masked_unit_attention": [True, True, False],
    },
    "ijepa": WIDE,
    "imagegpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 2, 2, 2, 2], ["Subsample", 8, 3, 2, 2, 2]],
    },
    "llama4": {
        "vision_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "image_size": 32,
            "patch_size": 8,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        "text_config": TEXT
        | {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 16,
        },
    },
    "lw_detr_vit": RATIO | {"num_windows": 4, "num_windows_side": 2, "pretrain_image_size": 32},
    "metaclip_2": {"vision_config": WIDE, "text_config": TEXT},
    "mlcd": WIDE,
    "mlcd_vision_model": WIDE,
    "mllama": {
        "vision_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "intermediate_size": 32,
            "vision_output_dim": 64,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0],
        },
        "text_config": TEXT
        | {"num_key_value_heads": 2, "cross_attention_layers": [0], "num_hidden_layers": 2},
    },
    "mobilenet_v1": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 16, 24, 32],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1]},
    "perceiver": {
        "num_latents": 4,
        "d_latents": 16,
        "d_model": 16,
        "num_self_attends_per_block": 1,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "image_size": 8,
    },
    "pixio": RATIO | {"n_cls_tokens": 2},
    "poolformer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "pp_lcnet": {"scale": 0.25},
    "pp_lcnet_v3": {"scale": 0.25},
    "pp_lcnet_v4": {},
    "regnet": CNN | {"embedding_size": 8, "groups_width": 8},
    "resnet": CNN | {"embedding_size": 8, "layer_type": "basic"},
    "rt_detr_resnet": CNN | {"embedding_size": 8, "layer_type": "basic"},
    "rf_detr_dinov2": RATIO | {"num_windows": 1},
    "sapiens2": WIDE | {"num_register_tokens": 2, "num_key_value_heads_per_layer": [2, 2, 2]},
    "shieldgemma2": {
        "text_config": TEXT | {"num_key_value_heads": 1, "head_dim": 8},
        "vision_config": WIDE,
    },
    "siglip": {"vision_config": WIDE, "text_config": TEXT | {"projection_size": 32}},
    "siglip2": {
        "vision_config": {k: v for k, v in WIDE.items() if k != "image_size"} | {"num_patches": 16},
        "text_config": TEXT | {"projection_size": 32},
    },
    "siglip2_vision_model": WIDE | {"num_patches": 16},
    "siglip_vision_model": WIDE,
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [16, 16, 24, 32], "image_size": 64},
    "swin": SWIN,
    "swinv2": SWIN,
    "swin2sr": SWIN | {"patch_size": 1},
    "textnet": {
        "image_size": 64,
        "hidden_sizes": [8, 8, 16, 16, 32],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 1]], [[3, 3]]],
        "conv_layer_strides": [[2], [2], [2], [2]],
        "stem_out_channels": 8,
    },
    "timesformer": WIDE | {"num_frames": 2},
    "timm_backbone": {"backbone": "resnet10t", "use_pretrained_backbone": False},
    "timm_wrapper": {"architecture": "resnet10t", "model_args": {}},
    "tipsv2": {"vision_config": RATIO, "text_config": TEXT | {"hidden_size": 32}},
    "tipsv2_vision_model": RATIO,
    "uvdoc_backbone": {},
    "videomae": WIDE
    | {
        "num_frames": 4,
        "decoder_num_hidden_layers": 1,
        "decoder_hidden_size": 32,
        "decoder_num_attention_heads": 2,
    },
    "videoprism_vision_model": {
        k: v for k, v in WIDE.items() if k not in ("patch_size", "num_hidden_layers")
    }
    | {
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
        "tubelet_size": [1, 8, 8],
        "num_frames": 2,
    },
    "vit": WIDE,
    "vit_mae": WIDE
    | {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 32, "decoder_num_attention_heads": 2},
    "vit_msn": WIDE,
    "vitdet": RATIO | {"pretrain_image_size": 32},
    "vitpose_backbone": RATIO | {"image_size": [32, 32], "patch_size": [8, 8]},
    "vivit": {k: v for k, v in WIDE.items() if k != "patch_size"}
    | {"num_frames": 4, "tubelet_size": [2, 8, 8]},
    "vjepa2": {
        "patch_size": 8,
        "crop_size": 32,
        "frames_per_clip": 4,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 16,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
    "yolos": WIDE | {"image_size": [32, 32], "num_detection_tokens": 5},
}


# The smallest member of every module of timm, some made smaller still.
TIMM: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "halonet_h1": {},
    "test_byobnet": {},
    "cait_xxs24_224": {},
    "coat_tiny": {},
    "convit_tiny": {},
    "convmixer_768_32": {},
    "test_convnext": {},
    "cpubone_nano": {},
    "crossvit_tiny_240": {},
    "csatv2": {},
    "cs3darknet_focus_s": {},
    "cspnext_tiny": {},
    "davit_tiny": {},
    "deepseek_vit_412m": {"depth": 2, "embed_dim": 64, "num_heads": 2},
    "deit_tiny_patch16_224": {},
    "densenet121": {},
    "dla46x_c": {},
    "dpn48b": {},
    "edgenext_xx_small": {},
    "efficientformer_l1": {},
    "efficientformerv2_s0": {},
    "test_efficientnet": {},
    "efficientvim_m1": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "vit_tiny_patch16_dinov3_qkvb": {},
    "fasternet_t0": {},
    "fastvit_t8": {},
    "focalnet_tiny_srf": {},
    "gcvit_xxtiny": {},
    "gemma4_vit_167m": {"depth": 2},
    "ghostnet_050": {},
    "hardcorenas_b": {},
    "hgnetv2_b0": {},
    "hiera_tiny_224": {},
    "sam2_hiera_tiny": {},
    "hrnet_w18_small": {},
    "iformer_t": {},
    "inception_next_atto": {},
    "inception_resnet_v2": {},
    "inception_v3": {},
    "inception_v4": {},
    "lcnetv2_small": {},
    "levit_128s": {},
    "lowformer_b0": {},
    "test_mambaout": {},
    "test_coatnet": {},
    "poolformerv2_s12": {},
    "gmlp_ti16_224": {},
    "mobilenetv3_small_050": {},
    "mobilenetv5_base": {},
    "mobilevit_xxs": {},
    "mvitv2_tiny": {},
    "naflexvit_base_patch16_gap": {"depth": 2},
    "nasnetalarge": {},
    "nest_tiny": {},
    "nextvit_small": {},
    "test_nfnet": {},
    "pit_ti_224": {},
    "pnasnet5large": {},
    "pvt_v2_b0": {},
    "qwen3_vit_88m": {"depth": 2},
    "rdnet_tiny": {},
    "regnetx_002": {},
    "repghostnet_050": {},
    "repvit_m1": {},
    "res2next50": {},
    "resnest14d": {},
    "test_resnet": {},
    "resnetv2_18": {},
    "rexnet_100": {},
    "selecsls42": {},
    "legacy_seresnet18": {},
    "sequencer2d_s": {},
    "shvit_s1": {},
    "skresnet18": {},
    "starnet_s050": {},
    "swiftformer_xs": {},
    "swin_tiny_patch4_window7_224": {},
    "swinv2_tiny_window16_256": {},
    "swinv2_cr_tiny_224": {},
    "tiny_vit_5m_224": {},
    "tnt_s_legacy_patch16_224": {},
    "tresnet_m": {},
    "twins_svt_small": {},
    "vgg11": {},
    "visformer_tiny": {},
    "test_vit": {},
    "vit_tiny_r_s16_p8_224": {},
    "test_vit_relpos": {},
    "samvit_base_patch16_224": {
        "depth": 3,
        "embed_dim": 64,
        "num_heads": 2,
        "global_attn_indexes": (1,),
    },
    "vitamin_small_224": {},
    "volo_d1_224": {},
    "ese_vovnet19b_slim_dw": {},
    "legacy_xception": {},
    "xception41p": {},
    "xcit_nano_12_p8_224": {},
}

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
OPEN_CLIP = (
    "ViT-S-32", "ViT-S-32-alt", "coca_ViT-B-32", "PE-Core-T-16-384", "RN50", "ViT-B-16-SigLIP",
    "EVA02-B-16", "MobileCLIP2-S0", "ViTamin-S", "convnext_tiny", "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224", "swin_base_patch4_window7_224",
)  # fmt: skip
LARGE = (
    "nasnetalarge", "pnasnet5large", "vgg11", "mobilenetv5_base", "gemma4_vit_167m",
    "convmixer_768_32", "legacy_xception", "xception41p", "inception_v3", "inception_v4",
    "inception_resnet_v2", "sequencer2d_s", "swinv2_tiny_window16_256", "hiera_tiny_224",
    "halonet_h1", "maxvit_t", "sam2_hiera_tiny",
)  # fmt: skip
"""Members that no argument makes small, and that take long."""


class Outcome(NamedTuple):
    """What became of a model: a backbone, or a refusal in a sentence."""

    backbone: Backbone | None
    refusal: str


def kinds_of_transformers() -> list[str]:
    """All model types of pictures and clips."""
    tables = ("IMAGE", "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "BACKBONE")
    names = (getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES") for table in tables)
    return sorted({kind for several in names for kind in several})


def modules_of_timm() -> dict[str, str]:
    """The small member of every module."""
    module_of = {name: timm.models._registry._model_to_module[name] for name in TIMM}
    found = {module: name for name, module in module_of.items()}
    return {module: found[module] for module in list_modules() if module in found}


def outcome(family: str) -> Outcome:
    """Of `hf/KIND`, `timm/NAME`, `torchvision/NAME` or `open_clip/NAME`."""
    library, _, name = family.partition("/")
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        try:
            if library == "hf":
                config = transformers.CONFIG_MAPPING[name](**TRANSFORMERS[name])
                written = json.loads(config.to_json_string())
                Path(folder, "config.json").write_text(json.dumps(written | {"model_type": name}))
                return Outcome(load_backbone(f"hf/{folder}"), "")
            if library == "timm":
                module = timm.create_model(name, num_classes=0, **TIMM[name])
                return Outcome(read_module(module, family, None, None), "")
            size = (
                64
                if library == "torchvision" and not name.startswith(("inception", "maxvit"))
                else None
            )
            return Outcome(load_backbone(family, image_size=size), "")
        except UserError as error:
            return Outcome(None, str(error).replace(folder, "FOLDER"))
