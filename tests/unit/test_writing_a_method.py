"""The method of docs/writing_a_method.md is short, and trains, resumes and exports like others."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vistill
from vistill.errors import UserError
from vistill.models.vit import VisionTransformer
from vistill.training.learner import Learner

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing_a_method.md"
CELLS = ROOT / "tests" / "data" / "cells" / "train"
QUICK = {
    "method.builder": "masked_svd.py:build",
    "data.image_size": 32,
    "data.workers": 0,
    "data.held_out": 0.1,
    "student.patch_size": 8,
    "student.embed_dim": 16,
    "student.depth": 2,
    "student.num_heads": 2,
    "optim.lr": 3e-3,
    "optim.warmup_epochs": 0,
    "train.epochs": 6,
    "train.global_batch_size": 8,
    "train.device": "cpu",
    "train.loggers": [],
    "train.knn_probe": False,
    "train.checkpoint_steps": 1,
}


def clip_file(path: Path) -> str:
    """A random image tower under OpenAI's names, as CLIP's files have them."""
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=1,
        position="learned",
        pre_norm=True,
        activation="quick_gelu",
        norm_eps=1e-5,
    )
    rules = [
        (r"^patch_embed\.proj", "conv1"),
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^norm_pre", "ln_pre"),
        (r"^norm\b", "ln_post"),
        (r"^blocks", "transformer.resblocks"),
        (r"\.norm", ".ln_"),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj", "attn.out_proj"),
        (r"fc1", "c_fc"),
        (r"fc2", "c_proj"),
    ]
    state = {}
    for name, value in model.state_dict().items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        tokens = name.endswith("embedding")
        state[f"visual.{name}"] = value.flatten(0, -2).squeeze(0) if tokens else value
    torch.save(state, path)
    return f"file:{path}"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's code, in files of the working folder; that of the first method."""
    codes = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, code in zip(("masked_svd", "cosine_map", "path_words"), codes, strict=True):
        assert len(code.splitlines()) <= 60
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return codes[0]


def pretrain(out: str, **changes):
    return vistill.pretrain(
        "custom",
        data=CELLS,
        teacher=clip_file(Path("clip.pth")),
        student=changes.pop("student.model", "vit"),
        out=out,
        overrides={k: v for k, v in (QUICK | changes).items() if v is not None or "builder" in k},
    )


@pytest.mark.slow
def test_it_learns_resumes_and_exports(source, monkeypatch, tmp_path):
    result = pretrain("whole", **{"method.options.mask_ratio": 0.7})
    lines = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(held_out) == 6
    assert held_out[-1] < 0.9 * held_out[0]
    assert "loss/svd" in result.terms
    assert load_file("whole/fitted.safetensors")["basis"].shape == (64, 24)

    update, steps = Learner.update, []

    def failing(self, lr):
        if len(steps) == 7:
            raise KeyboardInterrupt
        steps.append(lr)
        return update(self, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            pretrain("stopped", **{"method.options.mask_ratio": 0.7})
    pretrain("stopped", **{"method.options.mask_ratio": 0.7})
    files = [f"{run}/export/last/model.safetensors" for run in ("whole", "stopped")]
    one, other = map(load_file, files)
    assert all(torch.equal(one[name], other[name]) for name in one)

    vistill.export("stopped", out="exported")
    again = vistill.load_backbone("exported").state_dict()
    assert torch.equal(
        again["norm.weight"], load_file("stopped/export/best/model.safetensors")["norm.weight"]
    )


@pytest.mark.slow
def test_a_cnn_learns_by_the_second_method(source):
    sizes = ("patch_size", "embed_dim", "depth", "num_heads")
    changes = {f"student.{name}": None for name in sizes} | {"student.model": "timm/resnet10t"}
    changes |= {"method.builder": "cosine_map.py:build", "train.epochs": 2}
    result = pretrain("cnn", **changes)
    assert {"loss/pooled", "loss/map"} <= set(result.terms)
    total = result.terms["loss/pooled"] + 0.5 * result.terms["loss/map"]
    assert result.terms["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_words_of_paths_are_learned_and_continued_by_the_third_method(source, monkeypatch):
    changes = {
        "method.builder": "path_words.py:build",
        "method.options.words": 3,
        "data.workers": 1,
        "train.evaluate_every": 3,
    }

    def learn(out):
        overrides = QUICK | changes
        return vistill.pretrain("custom", data=CELLS, student="vit", out=out, overrides=overrides)

    result = learn("whole")
    lines = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert held_out[-1] < held_out[0]
    assert {"loss/words", "loss/pictures"} <= set(result.terms)

    update, steps = Learner.update, []

    def failing(self, lr):
        steps.append(lr)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return update(self, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            learn("stopped")
    learn("stopped")
    files = [f"{run}/export/last/model.safetensors" for run in ("whole", "stopped")]
    one, other = map(load_file, files)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.patch_size": 16}, "needs equal grids"),
        ({"student.embed_dim": 128}, "no wider than its teacher"),
        ({"method.builder": "masked_svd.py:built"}, "no function 'built'; did you mean 'build'"),
        ({"method.builder": "masked.py:build"}, r"file masked\.py does not exist"),
        ({"method.builder": "no_such_module:build"}, "there is no module 'no_such_module'"),
        ({"method.builder": "masked_svd.py"}, r"names no function; write FILE\.py:NAME"),
        ({"method.builder": "masked_svd.py:seen_patches"}, "."),
        ({"method.builder": None}, r"set method\.builder=FILE\.py:NAME"),
        ({"method.options.mask_ratoi": 0.7}, "did you mean method.options.mask_ratio"),
        ({"method.options.mask_ratio": 2}, "method.options.mask_ratio must be at most 1"),
        ({"teacher.block": 1}, r"custom does not read teacher\.block"),
        ({"student.drop_path": 0.1}, r"custom does not read student\.drop_path"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(source, changes, message):
    if changes.get("method.builder") == "masked_svd.py:seen_patches":
        Path("masked_svd.py").write_text("def seen_patches(given):\n    return 3\n")
        message = r"gives a int, not a vistill\.methods\.base\.Method"
    with pytest.raises(UserError, match=message):
        pretrain("out", **changes)
    assert not Path("out").exists()
