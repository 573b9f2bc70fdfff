"""Teachers from transformers see what their own image processors show, on real pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto import modeling_auto
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers_families import SIZES, family

from vistill.errors import UserError
from vistill.models.adapters.processors import Shown, shown_by
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone

CELLS = sorted((Path(__file__).parents[3] / "data" / "cells" / "test").glob("*/*.jpg"))
STILL = {"do_resize": False, "do_center_crop": False, "do_pad": False}
# These cut pictures into tiles, look colours up in a file or are made by another library.
REFUSED = {"Cohere2Vision", "Llama4", "Mllama", "ImageGPT", "TimmWrapper"}


def processors() -> list[str]:
    """The image processors of all families of pictures and clips, in both of their forms."""
    tables = ("IMAGE", "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "BACKBONE")
    kinds = {k for t in tables for k in getattr(modeling_auto, f"MODEL_FOR_{t}_MAPPING_NAMES")}
    names = (IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, {}).values() for kind in kinds)
    return sorted({name for several in names for name in several})


def cut(number: int, side: int) -> Image.Image:
    """The middle of a photograph of a blood cell."""
    return Image.open(CELLS[number]).convert("RGB").resize((side, side))


def pixels(*pictures: Image.Image) -> Tensor:
    """Values in [0, 1], as a batch brings them."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).movedim(-1, 1) / 255


def as_shown(shown: Shown, picture: Image.Image) -> Tensor:
    normalised = shown.normalization(pixels(picture))[0]
    return normalised.flip(0) if shown.channels == "bgr" else normalised


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not valid for")
@pytest.mark.parametrize("name", processors())
def test_every_processor_of_pictures_is_followed_or_refused(name: str) -> None:
    kind = getattr(transformers, name)
    if name.partition("ImageProcessor")[0] in REFUSED:
        with pytest.raises((UserError, TypeError)) as refused:
            shown_by(kind(), name)
        assert "\n" not in str(refused.value)
        return
    processor, picture = kind(), cut(3, 32)
    shown = shown_by(processor, name)
    patches = {"patch_size": 1, "max_num_patches": 1024} if "Siglip2" in name else {}
    theirs = processor(picture, return_tensors="pt", **STILL, **patches)["pixel_values"]
    if patches:
        theirs = theirs.mT
    torch.testing.assert_close(
        as_shown(shown, picture), theirs.reshape(3, 32, 32), rtol=0, atol=2e-5
    )
    if shown.size is not None and shown.size[0] < 1000:
        theirs = processor(cut(0, 300), return_tensors="pt")["pixel_values"]
        assert theirs.shape[-2:] == shown.size


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("vit", {"do_rescale": False}),
        ("vit", {"rescale_factor": 1 / 127.5}),
        ("vit", {"do_normalize": False}),
        ("vit", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("resnet", {"image_processor_type": "EfficientNetImageProcessor"}),
        ("resnet", {"image_processor_type": "EfficientNetImageProcessor", "include_top": False}),
        (
            "convnext",
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "rescale_offset": True,
                "rescale_factor": 1 / 127.5,
                "image_mean": [0.485, 0.456, 0.406],
            },
        ),
        ("resnet", {"image_processor_type": "MobileViTImageProcessor"}),
        ("vit", {"image_processor_type": "PPLCNetImageProcessor"}),
        ("swin", {"feature_extractor_type": "MobileViTFeatureExtractor"}),
        ("resnet", {"image_processor_type": "VivitImageProcessor"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not valid for")
def test_features_are_those_of_what_the_processor_shows(
    kind: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    original: Any = family(kind, tmp_path / "folder")
    (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(fields))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    model = load_backbone(f"hf/{tmp_path / 'folder'}", image_size=SIZES[kind]["image_size"]).eval()
    pictures = [cut(number, model.image_size[0]) for number in (0, 5)]
    theirs = processor(pictures, return_tensors="pt", **STILL)["pixel_values"].reshape(
        2, 3, *model.image_size
    )
    expected = original(theirs).last_hidden_state
    found = model(model.normalization(pixels(*pictures)))
    if expected.dim() == 4:
        expected = expected.flatten(2).mT
    spread = (expected[0] - expected[1]).norm()
    assert (found - expected).norm() < 1e-3 * spread
    save_backbone(model, tmp_path / "export")
    again = read_backbone(tmp_path / "export").eval()
    assert torch.equal(again(again.normalization(pixels(*pictures))), found)


@torch.no_grad()
@pytest.mark.parametrize("written", [None, {"image_mean": [0.3], "image_std": [0.2]}])
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_model_of_one_channel_sees_the_mean_of_three(
    kind: str, written: dict[str, Any] | None, tmp_path: Path
) -> None:
    original: Any = family(kind, tmp_path / "folder", num_channels=1)
    if written is not None:
        (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(written))
    model = load_backbone(f"hf/{tmp_path / 'folder'}", image_size=64).eval()
    picture = pixels(cut(1, 64))
    grey = picture.mean(dim=1, keepdim=True)
    if written is not None:
        shade = (grey[:, 0] * 255).round().to(torch.uint8).numpy()[0]
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
        theirs = processor(Image.fromarray(shade), return_tensors="pt", **STILL)["pixel_values"]
        torch.testing.assert_close(theirs, (grey - 0.3) / 0.2, rtol=0, atol=0.02)
    mean, std = model.normalization.mean, model.normalization.std
    assert len(mean) == 3
    assert len({*mean}) == len({*std}) == 1
    more = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    expected = original((grey - mean[0]) / std[0], **more).last_hidden_state
    found = model(model.normalization(picture))
    expected = expected.flatten(2).mT if expected.dim() == 4 else expected
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    save_backbone(model, tmp_path / "export")
    assert torch.equal(read_backbone(tmp_path / "export").eval()(picture), model(picture))


def test_a_model_of_four_channels_is_refused(tmp_path: Path) -> None:
    family("vit", tmp_path, num_channels=4)
    with pytest.raises(UserError, match="takes pictures of 4 channels; vistill shows red"):
        load_backbone(f"hf/{tmp_path}")


@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [
        ("resnet", {"size": {"shortest_edge": 320}, "crop_pct": 0.875}, (320, 320)),
        ("resnet", None, (64, 64)),
        ("dinov2", {"size": {"shortest_edge": 64}, "crop_size": 48}, (48, 48)),
        ("swin", {"size": {"height": 32, "width": 32}}, (32, 32)),
        ("dinov2", {"size": {"shortest_edge": 64}, "do_center_crop": False}, (32, 32)),
    ],
)  # fmt: skip
def test_the_size_is_what_the_processor_makes(
    kind: str, fields: dict[str, Any] | None, size: tuple[int, int], tmp_path: Path
) -> None:
    family(kind, tmp_path / "folder")
    if fields is not None:
        (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(fields))
    model = load_backbone(f"hf/{tmp_path / 'folder'}")
    assert model.image_size == size
    save_backbone(model, tmp_path / "export")
    assert read_backbone(tmp_path / "export").image_size == size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "Nothing"}, "makes no image processor of its preprocessor_conf"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "ImageGPTImageProcessor fails on a p"),
        ({"image_std": [0.0, 0.0, 0.0]}, "ViTImageProcessor"),
    ],
)
def test_processors_that_cannot_be_followed_get_one_sentence(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    family("vit", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=message) as error:
        load_backbone(f"hf/{tmp_path}")
    assert "\n" not in str(error.value)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="makes no image processor of its"):
        load_backbone(f"hf/{tmp_path}")
