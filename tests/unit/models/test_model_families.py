"""Every family that an installed library builds is read or refused in one sentence."""

from pathlib import Path

import pytest
from model_families import (
    LARGE,
    OPEN_CLIP,
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    kinds_of_transformers,
    modules_of_timm,
    outcome,
)

PAGE = Path(__file__).parents[3] / "docs" / "model_families.md"
HF = [f"hf/{kind}" for kind in kinds_of_transformers()]
OTHERS = [
    *(f"timm/{name}" for name in TIMM if name not in LARGE),
    *(f"torchvision/{name}" for name in TORCHVISION if name not in LARGE),
    "open_clip/ViT-S-32-alt",
    "open_clip/RN50",
    "open_clip/MobileCLIP2-S0",
]
READ = {
    "hf/vit": 1, "hf/deit": 2, "hf/dinov2_with_registers": 4, "hf/dinov3_vit": 3, "hf/siglip2": 0,
    "hf/pixio": 2, "hf/swinv2": 0, "hf/mobilenet_v1": 0, "hf/mobilenet_v2": 0, "hf/mobilevit": 0,
    "hf/mobilevitv2": 0, "hf/pvt_v2": 0, "hf/segformer": 0, "hf/efficientnet": 0,
    "timm/test_vit": 1, "timm/cait_xxs24_224": 0, "timm/xcit_nano_12_p8_224": 0,
    "timm/vit_tiny_patch16_dinov3_qkvb": 5, "timm/gmlp_ti16_224": 0, "timm/test_coatnet": 0,
    "timm/samvit_base_patch16_224": 0, "timm/beit_base_patch16_224": 1,
    "timm/naflexvit_base_patch16_gap": 4,
}  # fmt: skip
REFUSED = {
    "hf/yolos": "no grid of patches in the order of the picture",
    "hf/hiera": "cannot be read",
    "hf/vivit": "takes clips in a way of its own",
    "hf/timesformer": "takes clips in a way of its own",
    "hf/imagegpt": "takes no pictures",
    "timm/pit_ti_224": "cannot be read",
}


def check(family: str) -> None:
    """It is read, and then as expected, or refused in one sentence."""
    backbone, refusal = outcome(family)
    if family in READ:
        assert backbone is not None, refusal
        assert backbone.num_prefix_tokens == READ[family]
        assert len(backbone.num_heads) == backbone.depth
    elif family in REFUSED:
        assert REFUSED[family] in refusal
    if backbone is None:
        assert refusal
        assert "\n" not in refusal


@pytest.mark.slow
@pytest.mark.parametrize("family", [*READ, *REFUSED])
def test_a_sample_is_read_or_refused(family: str) -> None:
    check(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in (*HF, *OTHERS) if f not in (*READ, *REFUSED)])
def test_every_other_family_is_read_or_refused(family: str) -> None:
    check(family)


def test_every_family_has_a_row_on_the_page() -> None:
    assert not {*kinds_of_transformers()} - {*TRANSFORMERS}
    page = PAGE.read_text()
    for family in (*kinds_of_transformers(), *modules_of_timm(), *TORCHVISION, *OPEN_CLIP):
        assert f"| `{family}` |" in page, family
