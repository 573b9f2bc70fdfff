"""Models of pictures and text embed as their own libraries do, from names, folders and files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vistill.errors import UserError
from vistill.models.joint import load_joint

SIDES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SENTENCES = ["a red cell", "a dog that runs on the beach", "word " * 200]


@pytest.fixture(params=["plain", "custom_text", "quick_gelu"])
def own_model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Any]]:
    """Name and module of a small model that open_clip knows."""
    open_clip = pytest.importorskip("open_clip")
    name = f"tiny-{request.param}"
    config = SIDES | ({request.param: True} if request.param != "plain" else {})
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    yield name, open_clip.create_model(name).eval()
    open_clip.factory._MODEL_CONFIGS.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "state_dict", "openai"])
def test_open_clip(form: str, own_model: tuple[str, Any], tmp_path: Path) -> None:
    import open_clip

    name, module = own_model
    state = {key: value.clone() for key, value in module.state_dict().items()}
    file = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file(state, file)
    elif form == "state_dict":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file)
    else:  # OpenAI's names, also where open_clip has a text tower of its own
        state = {key.removeprefix("text."): value for key, value in state.items()}
        torch.save(state | {"input_resolution": torch.tensor(32)}, file)
    joint = load_joint(f"open_clip/{name}:{file}")
    assert joint is not None
    assert (joint.width, joint.image_size, joint.untrained) == (16, (32, 32), False)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(joint.see(pixels), module.encode_image(pixels))
        expected = module.encode_text(open_clip.get_tokenizer(name)(SENTENCES))
        torch.testing.assert_close(joint.read(SENTENCES), expected)
        frames = torch.rand(2, 3, 4, 32, 32)
        seen = joint.see_frames(frames)
    assert seen.shape == (2, 4, 16)
    torch.testing.assert_close(seen[1, 2], module.encode_image(frames[1:, :, 2])[0])


def test_open_clip_weights_have_to_fit(own_model: tuple[str, Any], tmp_path: Path) -> None:
    name, module = own_model
    state = dict(module.state_dict())
    state.pop("logit_scale")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="logit_scale"):
        load_joint(f"open_clip/{name}:{tmp_path / 'weights.safetensors'}")
    assert load_joint(f"open_clip/{name}").untrained  # type: ignore[union-attr]


def test_what_reads_no_text() -> None:
    assert load_joint("timm/vit_tiny_patch16_224") is None
    with pytest.raises(UserError, match="open_clip has no model 'ViT-B-33'; near: "):
        load_joint("open_clip/ViT-B-33")
    with pytest.raises(UserError, match="there is no folder /no/where"):
        load_joint("hf//no/where")


def test_transformers_without_text(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    assert load_joint(f"hf/{tmp_path}") is None


def test_siglip_reads_its_padding(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "cell": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 64}
    text = small | {"vocab_size": 5, "max_position_embeddings": 8, "projection_size": 32}
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    module = transformers.SiglipModel(config).eval()
    module.save_pretrained(tmp_path)
    joint = load_joint(f"hf/{tmp_path}")
    assert joint is not None
    pixels = torch.rand(2, 3, 32, 32)
    padded = torch.tensor([[3, 4, 1, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = module(input_ids=padded, pixel_values=pixels)
        normal = torch.nn.functional.normalize
        found = normal(joint.read(["red cell", "cell"]), dim=1)
        torch.testing.assert_close(found, expected.text_embeds)
        torch.testing.assert_close(normal(joint.see(pixels), dim=1), expected.image_embeds)
    assert joint.normalization.mean == (0.5, 0.5, 0.5)
