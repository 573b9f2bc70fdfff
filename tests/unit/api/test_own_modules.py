"""Students and teachers of the user's own: trained, evaluated, exported and handed back."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

import vistill
from vistill import cli
from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Backbone

CELLS = Path(__file__).parents[2] / "data" / "cells"
QUICK = {"data.workers": 0, "data.held_out": 0.0, "train.device": "cpu", "train.loggers": []}
SETTINGS = QUICK | {
    "data.image_size": 32,
    "train.epochs": 1,
    "train.global_batch_size": 9,
    "optim.warmup_epochs": 0,
}
HOST = {"workers": 0, "device": "cpu"}
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

NETS = '''
import torch
import torch.nn.functional as F
from torch import nn
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.adapters.any_cnn import PooledBackbone
from timm.models.vision_transformer import VisionTransformer


class Net(nn.Module):
    """A detector's backbone: two maps, and a weight that is tied."""

    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        p3 = F.relu(self.second(x))
        return [p3, F.relu(self.third(p3))]


def net():
    torch.manual_seed(0)
    return PooledBackbone(Net(), image_size=32, output=0)


def bare():
    return Net()


def other():
    return Net(7)


def vit():
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    module = VisionTransformer(**sizes)
    return ModuleBackbone(
        module, blocks="blocks", width=48, image_size=32, num_heads=3, norm="norm", qkv="attn.qkv"
    )


def bare_vit():
    return vit().module


def nothing():
    return 3
'''


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(compile(NETS, "nets.py", "exec"), made)
    return made


def teach(out: Path, student: Any, teacher: Any = "timm/resnet10t", **more: Any) -> Path:
    """By KDEP, or by TinyMIM where a teacher is given."""
    result = vistill.pretrain(
        "kdep" if teacher == "timm/resnet10t" else "tinymim",
        data=CELLS / "train",
        out=out,
        teacher=teacher,
        teacher_weights="random",
        student=student,
        overrides=SETTINGS | more,
    )
    assert result is not None
    return result.out


def knn(run: Any, **named: Any) -> float:
    result = vistill.evaluate(run, data=CELLS, protocols=["knn"], overrides=HOST, **named)
    return result.summaries[0].top1


@pytest.mark.slow
def test_a_cnn_is_evaluated_and_handed_back(nets: dict[str, Any], tmp_path: Path) -> None:
    student = nets["net"]()
    run = teach(tmp_path / "run", student)
    expected = student.eval().pooled(PIXELS)
    weights = load_file(run / "export" / "last" / "model.safetensors")
    module = nets["bare"]()
    assert set(weights) == set(module.state_dict())
    module.load_state_dict(weights, strict=True)  # in the user's own code, without vistill
    facts = json.loads((run / "export" / "last" / "model.json").read_text())
    assert facts["build"] is None
    assert facts["object"]["class"].endswith("Net")

    module = nets["bare"]()
    back = vistill.load_backbone(run, into=module)
    assert isinstance(back, PooledBackbone)
    assert back.module is module
    assert back.reads == "map 0 of 0, 1 that Net gives"
    torch.testing.assert_close(back.pooled(PIXELS), expected)
    assert torch.equal(module.second.weight, student.module.second.weight)
    assert back.origin == f"run {run}"

    scores = {knn(run, model=nets["net"]()), knn(run, model=nets["bare"]()), knn(student)}
    assert len(scores) == 1
    files = vistill.export(run, out=tmp_path / "out", format="torch", model=nets["bare"]())
    assert load_file(files[0]).keys() == weights.keys()
    again = vistill.load_backbone(tmp_path / "out", into=nets["bare"]())
    torch.testing.assert_close(again.pooled(PIXELS), expected)


def test_a_transformer_behind_hooks_comes_back(nets: dict[str, Any], tmp_path: Path) -> None:
    student = nets["vit"]()
    run = teach(tmp_path / "run", student, nets["vit"](), **{"student.drop_path": 0.0})
    module = nets["bare_vit"]()
    back = vistill.load_backbone(run, into=module)
    assert isinstance(back, ModuleBackbone)
    assert back.taps == student.taps
    assert torch.equal(back(PIXELS), student.eval()(PIXELS))
    theirs = TimmViT(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    weights = load_file(run / "export" / "last" / "model.safetensors")
    theirs.load_state_dict(weights, strict=True)


def test_what_is_missing_or_wrong_is_told(nets: dict[str, Any], tmp_path: Path) -> None:
    run = teach(tmp_path / "run", nets["net"]())
    missing = "holds the weights of a module of yours, .*Net, which only you can build: give it by"
    for call in (
        lambda: vistill.load_backbone(run),
        lambda: knn(run),
        lambda: vistill.export(run, out=tmp_path / "out"),
    ):
        with pytest.raises(UserError, match=f"{missing} --model FILE.py:FUNCTION"):
            call()
    with pytest.raises(UserError, match=r"first.weight is \[6, 3, 3, 3\], not \[7, 3, 3, 3\]"):
        knn(run, model=nets["other"]())
    with pytest.raises(UserError, match=r"model=nets.py:nothing returns a int, not a torch.nn"):
        knn(run, model="nets.py:nothing")
    with pytest.raises(
        UserError, match=r"model: nets.py has no function 'nett'; did you mean 'net'"
    ):
        knn(run, model="nets.py:nett")
    with pytest.raises(UserError, match=r"timm has no model like .*use --format torch"):
        vistill.export(run, out=tmp_path / "out", model=nets["bare"]())
    with pytest.raises(UserError, match="cannot be built afresh; give the function"):
        knn(run, model=nets["bare"](), random_init=True)
    with pytest.raises(UserError, match=r"vit_tiny is no run, whose weights the given module"):
        knn("vit_tiny", model=nets["bare"]())
    with pytest.raises(UserError, match=r"only you can build nets.py:net"):
        vistill.pretrain(data=CELLS, out=tmp_path / "c", teacher="vit_tiny", chain="nets.py:net")
    with pytest.raises(
        UserError, match=r"student\.depth=3 has no use with .*nets.py:net, which is no"
    ):
        teach(tmp_path / "d", "nets.py:net", **{"student.depth": 3})
    assert not (tmp_path / "out").exists()


class Mine(Backbone):
    """A user's own backbone, without an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        self.width, self.depth, self.num_heads, self.num_prefix_tokens = 5, 0, (), 0
        self.image_size, self.origin, self.build = (32, 32), "mine", None
        self.normalization = vistill.models.backbone.Normalization()
        self.taps = frozenset(("map", "pooled", "map_act", "pooled_act"))

    def tap(self, images: Tensor, taps: Any, **_: Any) -> Any:
        found = self.conv(images)
        whole = {"map": found, "map_act": F.relu(found)}
        whole |= {"pooled": found.mean((2, 3)), "pooled_act": F.relu(found).mean((2, 3))}
        return {tap: whole[tap.kind] for tap in taps}


def test_a_backbone_without_an_adapter(nets: dict[str, Any], tmp_path: Path) -> None:
    student = Mine()
    run = teach(tmp_path / "run", student)
    back = vistill.load_backbone(run, into=Mine())
    assert torch.equal(back.conv.weight, student.conv.weight)
    with pytest.raises(UserError, match="has to be wrapped first"):
        vistill.load_backbone(run, into=student.conv)


@pytest.mark.slow
def test_on_the_command_line(
    nets: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    words = ["--data", str(CELLS / "train"), "--out", "run", "--student", "nets.py:net", *quick]
    teacher = ["--teacher", "timm/resnet10t", "--teacher-weights", "random"]
    assert cli.main(["pretrain", "kdep", *words, *teacher]) == 0
    assert "read is map 0 of 0, 1 that Net gives" in capsys.readouterr().out
    assert cli.main(["pretrain", "kdep", *words, *teacher]) == 0  # continues: nothing left to do
    measure = ["evaluate", "run", "--data", str(CELLS), "--protocols", "knn", "workers=0"]
    assert cli.main(measure) == 2
    told = capsys.readouterr().err
    assert "give it by --model nets.py:net" in told
    assert cli.main([*measure, "--model", "nets.py:net"]) == 0
    scores = capsys.readouterr().out
    assert cli.main([*measure, "--model", "nets.py:bare"]) == 0
    assert capsys.readouterr().out == scores
    assert cli.main([*measure, "--model", "nets.py:net", "--random-init"]) == 0
    export = ["export", "run", "--out", "out", "--format", "torch", "--model", "nets.py:bare"]
    assert cli.main([*export, "--which", "last"]) == 0
    # As a teacher of the next student, by name.
    again = ["--data", str(CELLS / "train"), "--out", "next", "--student", "timm/resnet10t"]
    named = ["--teacher", "run:run,model=nets.py:net", "method.wider=pad"]
    assert cli.main(["pretrain", "kdep", *again, *named, *quick]) == 0
    shutil.rmtree("run")
    (tmp_path / "nets.py").unlink()
    assert cli.main(["pretrain", "kdep", *words, *teacher]) == 2
    assert "file nets.py does not exist" in capsys.readouterr().err


def test_weights_of_a_librarys_model_or_ones_own(nets: dict[str, Any], tmp_path: Path) -> None:
    """What a training script left of any architecture: prefixes, another classifier."""
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=7).eval()
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    torch.save({"arch": "resnet10t", "state_dict": state, "epoch": 3}, tmp_path / "best.pth.tar")
    found = vistill.load_backbone(f"file:{tmp_path}/best.pth.tar,model=timm/resnet10t")
    assert torch.equal(
        found.pooled(PIXELS), theirs.forward_head(theirs.forward_features(PIXELS), pre_logits=True)
    )
    assert found.origin == f"file {tmp_path}/best.pth.tar"
    own = nets["bare"]()
    content = {"net": {f"detector.backbone.{k}": v for k, v in own.state_dict().items()}}
    torch.save(content, tmp_path / "own.pth")
    mine = vistill.load_backbone(f"file:{tmp_path}/own.pth,model=nets.py:net")
    torch.testing.assert_close(mine.pooled(PIXELS), own.eval()(PIXELS)[0].mean((2, 3)))
    with pytest.raises(UserError, match=r"own.pth does not fit the model: missing"):
        vistill.load_backbone(f"file:{tmp_path}/own.pth,model=timm/resnet10t")
    with pytest.raises(UserError, match="'window' is none of the options that go with model="):
        vistill.load_backbone(f"file:{tmp_path}/own.pth,model=timm/resnet10t,window=3")
    with pytest.raises(
        UserError, match=r"model must be LIBRARY/NAME or FILE.py:NAME, not 'resnet'"
    ):
        vistill.load_backbone(f"file:{tmp_path}/own.pth,model=resnet")
