"""Weight files as training scripts leave them: wrappers, prefixes, averages, settings, shards."""

import argparse
import json
import pathlib
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vistill import cli
from vistill.errors import UserError
from vistill.models.build import load_backbone
from vistill.models.files.weight_files import read_weights
from vistill.models.vit import VisionTransformer

State = dict[str, Tensor]
SIZES: dict[str, Any] = {"image_size": 16, "patch_size": 8, "depth": 1}
PICTURE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vit(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(embed_dim=24, num_heads=2, **SIZES).eval()


OWN, OTHER = vit(), vit(1)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def read(path: Path, words: str = "") -> VisionTransformer:
    model = load_backbone(f"file:{path},num_heads=2{words}").eval()
    assert isinstance(model, VisionTransformer)
    return model


def same(found: VisionTransformer, expected: VisionTransformer) -> bool:
    return torch.equal(found(PICTURE), expected(PICTURE))


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "module._orig_mod.",
    "_orig_mod.module.", "model._orig_mod.", "model.module.backbone.", "network.model.net.",
    "online_model.model.", "vit.",
])  # fmt: skip
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_state_dict", "module"])
def test_prefixes_stack_in_any_order(tmp_path: Path, prefix: str, wrapper: str) -> None:
    state = under(prefix, OWN.state_dict())
    stray = {"criterion.weight": torch.zeros(2)}
    content = {wrapper: state | stray, "epoch": 3, "best_acc1": torch.tensor(7.0)}
    torch.save(content if wrapper else state, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert same(found, OWN)
    # A prefix that says nothing of itself is named.
    unusual = prefix.rstrip(".") if prefix in ("vit.", "online_model.model.") else ""
    assert found.origin == f"file {tmp_path}/a.pth" + (f", its {unusual}" if unusual else "")


AVERAGES = ["model_ema", "ema_state_dict", "state_dict_ema", "ema", "ema_model"]


@pytest.mark.parametrize("key", AVERAGES)
def test_averages_alone_are_taken_and_said(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({key: under("module.", OWN.state_dict()), "epoch": 1}, path)
    found = read(path)
    assert same(found, OWN)
    assert found.origin == f"file {path}, its {key}"
    torch.save({"decay": 0.99, key: {"decay": 0.99, "module": OWN.state_dict()}}, path)
    assert same(read(path), OWN)


@pytest.mark.parametrize("key", AVERAGES)
def test_beside_what_was_trained_an_average_is_named_and_can_be_chosen(
    tmp_path: Path, key: str
) -> None:
    path = tmp_path / "a.pth"
    torch.save({key: OTHER.state_dict(), "state_dict": OWN.state_dict()}, path)
    found = read(path)
    assert same(found, OWN)
    assert found.origin.endswith(f", its state_dict, beside {key}")
    for branch in ("ema", key):
        chosen = read(path, f",branch={branch}")
        assert same(chosen, OTHER)
        assert chosen.origin.endswith(f", its {key}")


def test_averages_in_one_dictionary(tmp_path: Path) -> None:
    """Lightning keeps every attribute of its module in one dictionary, ema-pytorch both models."""
    path = tmp_path / "last.ckpt"
    for own, average in (("model.", "model_ema."), ("online_model.", "ema_model.module.")):
        both = under(own, OWN.state_dict()) | under(average, OTHER.state_dict())
        torch.save({"state_dict": both, "pytorch-lightning_version": "2.5"}, path)
        assert same(read(path), OWN)
        assert same(read(path, ",branch=ema"), OTHER)
        torch.save({"state_dict": under(average, OTHER.state_dict())}, path)
        assert same(read(path), OTHER)
        assert read(path).origin.endswith(f", its {average.rstrip('.')}")
    torch.save(AveragedModel(OWN).state_dict(), path)
    assert same(read(path), OWN)
    assert read(path).origin.endswith(", its average")


def test_several_networks_are_told_apart_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(under("left.", OWN.state_dict()) | under("right.", OTHER.state_dict()), path)
    with pytest.raises(UserError, match="its networks are left, right; say which: file:PATH,"):
        read(path)
    assert same(read(path, ",branch=right"), OTHER)
    with pytest.raises(
        UserError, match="no network of it is called 'middle'; there is left, right"
    ):
        read(path, ",branch=middle")
    torch.save(under("teacher.", OWN.state_dict()), path)
    with pytest.raises(UserError, match="its networks are teacher; say which"):
        read(path)
    torch.save({"mine": OWN.state_dict(), "epoch": 3}, path)
    with pytest.raises(UserError, match="it holds mine, epoch; say behind which name"):
        read(path)
    assert same(read(path, ",branch=mine"), OWN)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="holds no tensors where they are looked for"):
        read(path)


def test_a_classifier_beside_its_backbone_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    head = {"model.head.weight": torch.ones(5, 24), "model.head.bias": torch.zeros(5)}
    torch.save({"state_dict": under("model.backbone.", OWN.state_dict()) | head}, path)
    assert "logits" in read(path, ",classifier=keep").taps
    assert "logits" not in read(path).taps


@contextmanager
def foreign(**classes: Any) -> Iterator[types.SimpleNamespace]:
    """Classes of packages that are not here: named `a__b__C`, they are of module `a.b`."""
    made = types.SimpleNamespace()
    modules: dict[str, types.ModuleType] = {}
    for path, base in classes.items():
        *parts, name = path.split("__")
        module = ".".join(parts)
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            modules.setdefault(part, types.ModuleType(part))
        one = type(name, (base,), {"__module__": module})
        setattr(modules[module], name, one)
        setattr(made, name, one)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_the_weights_do_no_harm(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.pth"
    with foreign(
        yacs__config__CfgNode=dict,
        omegaconf__dictconfig__DictConfig=object,
        lightning_fabric__utilities__data__AttributeDict=dict,
        mmengine__logging__history_buffer__HistoryBuffer=object,
    ) as made:
        tree = made.DictConfig()
        tree.__dict__ = {"_metadata": {"ref_type": Any, "flags": int}, "_content": {"lr": 1.0}}
        settings = {
            "args": argparse.Namespace(lr=1.0, out=pathlib.PosixPath("/tmp/x"), on=np.bool_(True)),
            "best": np.float64(81.5),
            "half": np.float16(0.5),
            "count": np.int64(3),
            "history": np.arange(3.0),
            "names": np.array(["a", "b"]),
            "random": np.random.RandomState(0).get_state(),
            "generator": np.random.default_rng(0),
            "where": [pathlib.PurePosixPath("a"), pathlib.PosixPath("b/c")],
            "metrics": defaultdict(list, {"acc": [1.0]}),
            "config": made.CfgNode(MODEL=made.CfgNode(TYPE="vit")),
            "cfg": tree,
            "hyper_parameters": made.AttributeDict(width=3),
            "message_hub": made.HistoryBuffer(),
            "space": types.SimpleNamespace(a=1),
        }
        torch.save(
            {"model": OWN.state_dict()} | settings, path, _use_new_zipfile_serialization=zipped
        )
    assert same(read(path), OWN)


class Runs:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "protocol 4"])
def test_what_would_run_is_named_and_does_not_run(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = tmp_path / "a.pth", tmp_path / "made"
    content = {"model": OWN.state_dict() if how != "plain" else {}, "extra": Runs(made)}
    if how in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    else:
        path.write_bytes(pickle.dumps({"extra": Runs(made)}, 2 if how == "plain" else 4))
    code = cli.main(["evaluate", f"file:{path}", "--data", str(tmp_path)])
    told = capsys.readouterr().err
    assert code == 2
    assert f"{path} is not weights alone: reading it would run io.open" in told
    assert "save the tensors alone" in told
    assert not any(word in told for word in ("weights_only", "safe_globals", "trust", "Traceback"))
    assert not made.exists()


def test_a_whole_pickled_model_is_named_by_its_classes(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"would run torch\.nn\.modules\.container\.Sequential, "):
        load_backbone(f"file:{tmp_path}/model.pt")


def test_pickles_of_arrays(tmp_path: Path) -> None:
    """detectron2's converted files; of any byte order, by any protocol."""
    for protocol in (2, 4, 5):
        arrays = {k: v.numpy() for k, v in OWN.state_dict().items()}
        arrays["blocks.0.attn.qkv.weight"] = np.asfortranarray(arrays["blocks.0.attn.qkv.weight"])
        arrays["norm.bias"] = arrays["norm.bias"].astype(">f4")
        content = {"model": OrderedDict(arrays), "__author__": "me", "matching_heuristics": True}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
        assert same(read(tmp_path / "a.pkl"), OWN)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_pickles_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    """torch writes them all, and reads one or two of them safely."""
    path = tmp_path / "a.pth"
    content = {"model": OWN.state_dict(), "args": argparse.Namespace(lr=1.0), "best": np.float64(1)}
    torch.save(content, path, pickle_protocol=protocol)
    assert same(read(path), OWN)
    torch.save(content | {"x": Runs(tmp_path / "made")}, path, pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"would run io\.open"):
        read(path)
    torch.save(content, path, pickle_protocol=0)
    with pytest.raises(UserError, match="pickle protocol 0 loses where its tensors are"):
        read(path)
    if protocol > 3:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        with pytest.raises(UserError, match="not one that torch writes by itself; save it again"):
            read(path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path: Path, kind: str) -> None:
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    state, places = OWN.state_dict(), {}
    for number in range(2):
        name = f"{stem}-{number + 1:05}-of-00002.{kind}"
        part = {k: v.clone() for i, (k, v) in enumerate(state.items()) if i % 2 == number}
        places |= dict.fromkeys(part, name)
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    index = tmp_path / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert same(read(index), OWN)
    assert same(read(tmp_path), OWN)
    with pytest.raises(
        UserError, match=f"is one of several shards; name their index .*{index.name}"
    ):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"names 2 shards; {name} is not there"):
        read(index)
    for outside in ("../other.safetensors", "/tmp/other.safetensors"):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(places, outside)}))
        with pytest.raises(UserError, match="which is not beside it"):
            read(index)
    for nonsense in ("[]", "{}", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(nonsense)
        with pytest.raises(UserError, match=r"index\.json"):
            read(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"", "cannot read weights from"),
        (b"PK\x03\x04 and no more", "cannot read weights from"),
        (b"\x80\x02}q\x00", "cannot read weights from"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        read_weights(tmp_path)
