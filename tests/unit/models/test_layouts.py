"""Every published layout, written and read back: the same sizes and features, nothing assumed.

Each case writes a model's weights under the names, and with the buffers, of the code that publishes
them, and says what has to be told where no tensor tells it.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone, Tap
from vistill.models.build import load_backbone
from vistill.models.export import save_backbone
from vistill.models.files.beit import beit_names
from vistill.models.files.videomae import published_encoder
from vistill.models.relative_bias import relative_position_index
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

State = dict[str, Tensor]
INDEX = "relative_position_index"


def filled(model: nn.Module) -> Any:
    """`model` with random values everywhere, fixed tables excepted."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def vit(**changes: Any) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    return filled(VisionTransformer(**(sizes | changes)))


def swin(version: int = 1, **changes: Any) -> SwinBackbone:
    sizes = {"image_size": 64, "patch_size": 2, "embed_dim": 8, "window_size": 4}
    shape = {"depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    torch.manual_seed(0)
    return filled(SwinBackbone(version=version, **(sizes | shape | changes)))


def microsoft(model: SwinBackbone, *kept: str) -> State:
    """Patches merged at the end of a stage, buffers as `kept`, and a head."""
    state = dict(model.module.state_dict())
    buffers = model.module.named_buffers()
    state |= {k: v.clone() for k, v in buffers if k.endswith(kept or ("no such",))}
    renamed = {
        re.sub(r"^layers\.(\d+)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", k): v
        for k, v in state.items()
    }
    return renamed | {"head.weight": torch.zeros(5, model.width)}


ALL = (INDEX, "relative_coords_table", "attn_mask")


def beit(model: VisionTransformer, *, index: bool = True, key_bias: bool = False) -> State:
    state = beit_names(model.state_dict())
    if index:
        tables = [k for k in state if k.endswith("relative_position_bias_table")]
        own = relative_position_index(model.grid, model.cls_token is not None)
        state |= {k.replace("relative_position_bias_table", INDEX): own for k in tables}
    if key_bias:
        for name in [k for k in state if k.endswith("qkv.bias")]:
            for part, bias in zip("qkv", state.pop(name).chunk(3), strict=True):
                state[name.replace("qkv.bias", f"{part}_bias")] = bias
    return state


def clip(model: VisionTransformer) -> State:
    rules = (
        ("patch_embed.proj.", "conv1."), ("cls_token", "class_embedding"), ("norm_pre.", "ln_pre."),
        ("pos_embed", "positional_embedding"), (".attn.qkv.", ".attn.in_proj_"),
        (".attn.proj.", ".attn.out_proj."), (".fc1.", ".c_fc."), (".fc2.", ".c_proj."),
        (".norm1.", ".ln_1."), (".norm2.", ".ln_2."), ("blocks.", "transformer.resblocks."),
    )  # fmt: skip
    state = {"token_embedding.weight": torch.zeros(3, 4), "logit_scale": torch.ones(())}
    for name, value in model.state_dict().items():
        name = re.sub(r"^norm\.", "ln_post.", name)
        for old, new in rules:
            name = name.replace(old, new)
        flat = value[0] if name == "positional_embedding" else value
        state[f"visual.{name}"] = value[0, 0] if name == "class_embedding" else flat
    return state


def shared(model: SwinBackbone) -> State:
    """Feature distillation's SwinV2 with one bias network a stage."""
    state = {}
    for name, value in microsoft(model, *ALL).items():
        name = name.replace("cpb_mlp", "rpe_mlp")
        kept = re.match(rf"(layers\.\d+)\.blocks\.\d+\.attn\.(rpe_mlp|{ALL[0]}|{ALL[1]})(.*)", name)
        state[f"{kept[1]}.rel_pos_bias.{kept[2]}{kept[3]}" if kept else name] = value
    return state


def mobilenet_names(state: State) -> State:
    """Those of the KDEP code, where blocks and the last convolution are flat."""
    flat = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"^features\.18\.", "conv.", name).replace("classifier.1.", "classifier.")
        block = re.match(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)$", name)
        if block:
            place = (first if block[1] == "1" else flat)[block[2]]
            name = f"features.{block[1]}.conv.{place}.{block[3]}"
        renamed[name] = value
    return renamed


def official(state: State) -> dict[str, Any]:
    """KDEP's training checkpoint with the projector of the 1x1 convolution: the network twice."""
    extra = {"emb.weight": torch.zeros(5, 4), "emb.bias": torch.zeros(5)}
    extra |= {"l2norm.weight": torch.ones(5), "l2norm.running_mean": torch.zeros(5)}
    inside = state | extra | {"feat_scale": torch.ones(())}
    names = {f"module.model.model.{k}": v for k, v in inside.items()}
    names |= {f"module.attacker.model.model.{k}": v for k, v in inside.items()}
    names |= {"module.normalizer.new_mean": torch.zeros(3, 1, 1)}
    return {"model": names, "epoch": 90, "amp": None, "schedule": {"last_epoch": 90}}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def without(state: State, *starts: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(starts)}


class Case:
    """A model, what is saved of it, and what the user has to say."""

    def __init__(self, model: Backbone, content: Any, told: str = "") -> None:
        self.model, self.content, self.told = model, content, told


HEADS = ",num_heads=2"


def of_vits() -> Iterator[tuple[str, Case]]:
    mae, learned = vit(), vit(position="learned")
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pred.bias": torch.zeros(3)}
    arguments = {"args": argparse.Namespace(lr=1.0), "epoch": 3}
    yield "mae", Case(mae, {"model": mae.state_dict(), **arguments}, HEADS)
    yield "mae, whole", Case(mae, {"model": mae.state_dict() | decoder}, HEADS)
    wide = vit(image_size=(16, 48))
    yield "mae, unequal sides", Case(wide, {"model": wide.state_dict()}, HEADS)
    fine = {"fc_norm.weight": torch.ones(24), "head.weight": torch.zeros(5, 24)}
    yield "mae, fine-tuned", Case(mae, {"model": mae.state_dict() | fine}, HEADS)
    yield "dino", Case(learned, learned.state_dict(), HEADS)
    whole = {
        "student": under("module.backbone.", learned.state_dict())
        | {"module.head.mlp.0.weight": torch.zeros(3, 3)},
        "teacher": under("backbone.", mae.state_dict()),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    yield "dino, a training", Case(learned, whole, HEADS)
    yield "dino, its teacher", Case(mae, whole, f"{HEADS},branch=teacher")
    wide = vit(position="learned", image_size=(16, 48))
    told = f"{HEADS},image_size=16x48"
    yield "learned, unequal sides", Case(wide, wide.state_dict(), told)
    bare = vit(position="none")
    yield "no positions", Case(bare, bare.state_dict(), f"{HEADS},image_size=32")
    deit = vit(position="learned", distillation_token=True, num_classes=5)
    yield "deit", Case(deit, {"model": deit.state_dict()}, f"{HEADS},classifier=keep")
    tower = vit(
        embed_dim=64, num_heads=1, position="learned", pre_norm=True,
        activation="quick_gelu", norm_eps=1e-5,
    )  # fmt: skip
    yield "clip", Case(tower, clip(tower))


def of_beit() -> Iterator[tuple[str, Case]]:
    options: dict[str, Any] = {"position": "none", "layer_scale": 1.0, "qkv_bias": "no_key"}
    for share in ("shared", "layer"):
        model = vit(relative_position=share, **options)
        yield f"beit, {share}", Case(model, {"model": beit(model)})
        yield f"beit, {share}, no index", Case(model, {"model": beit(model, index=False)})
    wide = vit(relative_position="shared", image_size=(24, 40), **options)
    yield "beit, unequal sides", Case(wide, {"model": beit(wide)})
    patches = vit(relative_position="shared", class_token=False, image_size=(24, 40), **options)
    yield "beit, patches alone", Case(patches, {"model": beit(patches)})
    told = ",image_size=24x40"
    yield "beit, unequal, no index", Case(wide, {"model": beit(wide, index=False)}, told)
    keyed = vit(relative_position="layer", **(options | {"qkv_bias": "all"}))
    yield "beit, learned key bias", Case(keyed, {"model": beit(keyed, key_bias=True)})
    model, teacher = vit(relative_position="shared", **options), vit(position="learned")
    whole = under("encoder.", beit(model)) | under("feature_model.", teacher.state_dict())
    whole |= {"decoder.0.weight": torch.zeros(24, 24, 1)}
    yield "fd", Case(model, {"model": whole})
    yield "fd, its teacher", Case(teacher, {"model": whole}, f"{HEADS},branch=teacher")


def of_swins() -> Iterator[tuple[str, Case]]:
    one = swin()
    yield "swin", Case(one, {"model": microsoft(one, *ALL)})
    esvit = {"student": under("module.", microsoft(one, *ALL)), "teacher": {}, "epoch": 3}
    yield "esvit", Case(one, esvit)
    single = swin(depths=(1, 2, 1))
    yield "swin, one block first", Case(single, {"model": microsoft(single, *ALL)})
    clipped = swin(window_size=16)  # grids of 32, 16 and 8
    yield "swin, clipped windows", Case(clipped, {"model": microsoft(clipped, *ALL)})
    yield "swin, clipped, no buffers", Case(clipped, {"model": microsoft(clipped)})
    covering = swin(window_size=32)
    yield "swin, no shifted windows", Case(covering, {"model": microsoft(covering, *ALL)})
    told = ",image_size=64"
    yield "swin, no buffers", Case(one, {"model": microsoft(one)}, told)
    yield "swin, no mask", Case(one, {"model": microsoft(one, INDEX)}, told)
    wide = swin(image_size=(64, 128))
    yield "swin, unequal sides", Case(wide, {"model": microsoft(wide, *ALL)})
    two = swin(2)
    yield "swinv2", Case(two, {"model": microsoft(two, *ALL)})
    yield "swinv2, no buffers", Case(two, {"model": microsoft(two)}, ",window=4,image_size=64")
    yield "swinv2 of timm", Case(two, two.module.state_dict(), ",window=4,image_size=64")
    yield "swin of timm", Case(one, one.module.state_dict(), ",image_size=64")
    share = swin(2, share_bias=True, window_size=16)
    yield "swinv2, shared, clipped", Case(share, {"model": shared(share)})
    wide = swin(2, image_size=(64, 128))
    yield "swinv2, unequal sides", Case(wide, {"model": microsoft(wide, *ALL)})
    larger = swin(2, window_size=8, pretrained_windows=(4, 4, 2))
    yield "swinv2, larger windows", Case(larger, {"model": microsoft(larger, *ALL)})


def of_cnns() -> Iterator[tuple[str, Case]]:
    torch.manual_seed(0)
    small = PooledBackbone(filled(resnet18(num_classes=3)), image_size=64)
    plain = dict(small.module.state_dict())
    yield "resnet", Case(small, plain)
    yield "kdep", Case(small, official(plain))
    classes = ",classifier=keep"
    known = PooledBackbone(small.module, image_size=64, logits=True)
    yield "kdep, classifier", Case(known, official(plain), classes)
    mobile = PooledBackbone(filled(mobilenet_v2(num_classes=3)), image_size=64)
    state = mobilenet_names(mobile.module.state_dict())
    yield "kdep, mobilenet", Case(mobile, official(state))
    yield "mobilenet", Case(mobile, dict(mobile.module.state_dict()))


def of_clips() -> Iterator[tuple[str, Case]]:
    sizes: dict[str, Any] = {"tubelet_size": 2, "num_frames": 4, "class_token": False}
    for bias in ("no_key", "none"):
        model = vit(qkv_bias=bias, **sizes)
        encoder = published_encoder(model)
        extra = {"mask_token": torch.zeros(1, 1, 8), "decoder.norm.bias": torch.zeros(8)}
        extra |= {"encoder.projection_heads.0.weight": torch.zeros(3, 24)}
        told = f"{HEADS},image_size=32"
        yield f"videomae, bias {bias}", Case(model, {"model": encoder | extra}, told)
    keyed = vit(qkv_bias="all", **sizes)
    state = without(beit(keyed, key_bias=True), "pos_embed")
    yield "videomae, learned key bias", Case(keyed, {"module": state}, told)
    umt = vit(qkv_bias="no_key", **(sizes | {"tubelet_size": 1}))
    yield "umt, with its table", Case(umt, {"model": beit(umt)}, told)


CASES = {
    name: case for kind in (of_vits, of_beit, of_swins, of_cnns, of_clips) for name, case in kind()
}


def features(model: Backbone, size: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    frames = (model.num_frames,) if model.num_frames > 1 else ()
    pixels = torch.randn(2, 3, *frames, *size, generator=generator)
    tap = Tap("logits", model.depth)
    with torch.no_grad():
        return model.tap(pixels, [tap])[tap] if "logits" in model.taps else model(pixels)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if "mobilenet" in n else []) for n in CASES],
)
def test_what_is_published_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.save(case.content, tmp_path / "weights.pth")
    frames = case.model.num_frames
    found = load_backbone(
        f"file:{tmp_path}/weights.pth{case.told}", num_frames=frames if frames > 1 else None
    ).eval()
    if not isinstance(found, PooledBackbone):
        sizes = dict(found.build["args"], position_rule=None)
        assert sizes == dict(case.model.build["args"], position_rule=None)
        assert found.image_size == case.model.image_size
    size = case.model.image_size
    torch.testing.assert_close(features(found, size), features(case.model, size))


TELLING = re.compile("num_heads|image_size|window")
CLIPS = {name for name, case in CASES.items() if case.model.num_frames > 1}  # of any size


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if TELLING.search(c.told)])
def test_what_no_tensor_tells_is_asked_for(name: str, tmp_path: Path) -> None:
    """Without the words that tell it, a size is refused by the name of the word; never assumed."""
    case = CASES[name]
    torch.save(case.content, tmp_path / "weights.pth")
    words = [word for word in case.told.split(",") if TELLING.match(word)]
    for word in [w for w in words if name not in CLIPS or not w.startswith("image_size")]:
        rest = "".join(f",{other}" for other in case.told.split(",")[1:] if other != word)
        with pytest.raises(UserError, match=f"write file:.*{word.partition('=')[0]}="):
            load_backbone(f"file:{tmp_path}/weights.pth{rest}")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mae", ",num_heads=2,image_size=64", "pos_embed is of 4 x 4 .*patches, not of the 8 x 8"),
        ("beit, layer", ",num_heads=3", "has 2 heads, as its bias tables tell, not 3"),
        ("swin", ",image_size=32", "is for pictures of 64 x 64 pixels, as its windows tell"),
        ("swin", ",window=2", "has windows of 4, not of window=2"),
        ("swin", ",num_heads=2", "is a Swin, whose tensors tell its heads"),
        ("resnet", ",num_heads=2", "is a CNN, which has no heads"),
        ("resnet", ",window=7", "is no Swin, for which alone window=7"),
        ("mae", ",image_size=20x", "image_size must be 224 or HEIGHTxWIDTH"),
        (
            "mae",
            ",num_heads=2,image_size=30",
            "image_size=30x30 is no multiple of its patches of 8",
        ),
    ],
)
def test_words_that_contradict_the_tensors(
    name: str, words: str, message: str, tmp_path: Path
) -> None:
    torch.save(CASES[name].content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_backbone(f"file:{tmp_path}/weights.pth{words}")


def test_buffers_of_another_model_are_seen(tmp_path: Path) -> None:
    """A mask or an index that is not the model's own means that it would compute otherwise."""
    own, table = CASES["swin"].content["model"], CASES["beit, layer"].content["model"]
    mask, index = "layers.0.blocks.1.attn_mask", f"layers.0.blocks.0.attn.{INDEX}"
    offsets = next(k for k in table if k.endswith(INDEX))
    small = swin(window_size=2).module.state_dict()
    mixed = {k: v for k, v in small.items() if re.match(r"layers\.0\.blocks\.1.*table$", k)}
    for content, message in (
        (own | {mask: own[mask] * 2}, f"{mask} is not that of a Swin for 64 x 64"),
        (own | {index: own[index].flip(0)}, f"{index} is not that of a Swin for 64 x 64"),
        (own | mixed, "are not of one square window"),
        (table | {offsets: table[offsets].flip(0)}, f"{offsets} fits no grid of patches"),
    ):
        torch.save({"model": content}, tmp_path / "weights.pth")
        with pytest.raises(UserError, match=message):
            load_backbone(f"file:{tmp_path}/weights.pth")


def test_an_exports_own_description_tells_its_sizes(tmp_path: Path) -> None:
    model = swin(2)  # of which no tensor tells pictures and windows
    save_backbone(model, tmp_path)
    found = load_backbone(f"file:{tmp_path}/model.safetensors").eval()
    assert found.build == model.build
    assert found.origin == f"file {tmp_path}/model.safetensors"
    assert torch.equal(features(found, (64, 64)), features(model, (64, 64)))
    (tmp_path / "model.json").write_text('{"format": "of another tool"}')
    with pytest.raises(UserError, match="image_size=HEIGHTxWIDTH,window=SIDE"):
        load_backbone(f"file:{tmp_path}/model.safetensors")


def test_names_of_transformers_are_sent_to_their_folder(tmp_path: Path) -> None:
    state = {"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="carries the names of transformers; write hf/FOLDER"):
        load_backbone(f"file:{tmp_path}/pytorch_model.bin")
