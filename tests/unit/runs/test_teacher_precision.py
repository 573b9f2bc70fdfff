"""The type that a teacher computes in: every method, what is said, what a run keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cell_runs import CELLS
from int8_here import LACKS_INT8, needs_int8

from vistill.api import pretrain
from vistill.config.loading import load_config
from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.models.adapters.timm import timm_backbone
from vistill.runs import teacher_precision
from vistill.runs.adapting import Adapted
from vistill.runs.pretraining import Prepared, prepare
from vistill.runs.reading import open_samples
from vistill.training.precision import recommended, require_precision

CPU = torch.device("cpu")
VIDEOS = CELLS.parents[1] / "videos"
SMALL: dict[str, Any] = {
    "data.train": str(CELLS),
    "data.image_size": 64,
    "data.workers": 0,
    "data.held_out": 0.2,
    "student.model": "vit",
    "student.embed_dim": 64,
    "student.depth": 2,
    "student.num_heads": 2,
    "student.patch_size": 16,
    "teacher.model": "timm/test_vit",
    "teacher.weights": "random",
    "train.global_batch_size": 12,
    "train.epochs": 1,
    "train.precision": "fp32",
    "optim.warmup_epochs": 0,
    "train.device": "cpu",
    "train.knn_probe": False,
}
METHODS: dict[str, dict[str, Any]] = {
    "tinymim": {},
    "feature_distillation": {},
    "amd": {"method.reconstruction.decoder.depth": 1, "method.reconstruction.decoder.embed_dim": 16,
            "method.reconstruction.decoder.num_heads": 2},
    "relation_kd": {},
    "kdep": {"method.wider": "interpolate", "method.align": "svd"},
    "umt": {"data.train": str(VIDEOS), "data.frames": 4, "train.global_batch_size": 2,
            "method.aligned_layers": 2},
}  # fmt: skip


def prepared(name: str, out: Path | None = None, teacher: Any = None, **changes: Any) -> Prepared:
    words = {**SMALL, **METHODS.get(name, {})}
    words |= {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(name, [(k, v) for k, v in words.items() if v is not None])
    reading = open_samples(config.data, config.method)
    return prepare(Adapted(config), reading, out=out, teacher=teacher)


def words(out: Path, **changes: Any) -> dict[str, Any]:
    own = {key.replace("__", "."): value for key, value in changes.items()}
    return {**SMALL, **own}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("train", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_every_method_takes_its_teacher_in_every_type(name: str, train: str) -> None:
    losses = {}
    kinds = ["auto", "fp32", "bf16", *([] if LACKS_INT8 else ["int8"])]
    for kind in kinds:
        run = prepared(name, train__precision=train, teacher__precision=kind)
        teacher = run.method.teacher
        assert teacher is not None
        assert teacher.precision == {"auto": None if train == "fp32" else train}.get(kind, kind)
        rough = train == "bf16" if kind in ("auto", "int8") else kind == "bf16"
        if kind != "int8" or recommended(CPU) == "bf16":
            own = {parameter.dtype for parameter in teacher.parameters()}
            assert (torch.bfloat16 in own) == (rough or kind == "int8")
        batch = run.stream.kinds() or [next(iter(run.stream.iterate(0, 1)))]
        run.stream.close()
        if name == "kdep":
            fit = run.method.target_fit(len(run.train))
            assert fit is not None
            fit.add(batch[0])
            run.method.use_fit(fit.result())
        with torch.autocast("cpu", torch.bfloat16, enabled=train == "bf16"):
            loss = run.method(batch[0]).total
        loss.backward()
        losses[kind] = loss.item()
        run.give_back()
        assert teacher.precision is None
    assert losses["auto"] == losses[train]  # bit for bit what autocast gave
    for kind in kinds:
        assert losses[kind] == pytest.approx(losses["bf16"], rel=0.02)


@needs_int8
def test_what_int8_moves_too_much_gets_the_next_cheaper_type_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_precision, "SHARE", 0.0)
    run = prepared("tinymim", teacher__precision="int8")
    beside = recommended(CPU)
    found = run.config.teacher.precision
    assert found == beside
    assert run.adapted.asked["teacher.precision"] == "int8"
    assert (
        f"teacher.precision={beside} instead of int8, which moves the loss of 16 of your"
        in (run.adapted.notes[-1])
    )
    asked = words(tmp_path, teacher__precision="int8")
    pretrain("tinymim", out=tmp_path / "run", overrides=asked)
    monkeypatch.setattr(teacher_precision, "SHARE", 1.0)  # a look would now say otherwise
    asked["train.epochs"] = 2
    pretrain("tinymim", out=tmp_path / "run", overrides=asked)
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert load_yaml(config, "config.yaml")["teacher"]["precision"] == beside


@needs_int8
def test_a_run_keeps_its_int8_without_a_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = words(tmp_path, teacher__precision="int8")
    pretrain("tinymim", out=tmp_path, overrides=asked)
    monkeypatch.setattr(teacher_precision, "_judge", None)
    asked["train.epochs"] = 2
    pretrain("tinymim", out=tmp_path, overrides=asked)
    monkeypatch.setattr(teacher_precision, "lacks_int8", lambda: "this CPU has none")
    with pytest.raises(UserError, match=r"begun with teacher\.precision=int8, and this CPU has"):
        pretrain("tinymim", out=tmp_path, overrides=asked | {"train.epochs": 3})


def test_where_int8_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = recommended(CPU)
    monkeypatch.setattr(teacher_precision, "lacks_int8", lambda: "")
    cnn = prepared("kdep", teacher__model="timm/test_resnet", teacher__precision="int8")
    assert "this teacher has no Linear layers" in cnn.adapted.notes[-1]
    assert cnn.config.teacher.precision == beside
    monkeypatch.setattr(teacher_precision, "lacks_int8", lambda: "this CPU has none")
    run = prepared("tinymim", teacher__precision="int8")
    assert f"teacher.precision={beside} instead of int8: this CPU has none" in run.adapted.notes
    with pytest.raises(UserError, match=r"teacher\.precision=fp16 is for CUDA devices; a CPU"):
        prepared("tinymim", teacher__precision="fp16")
    with pytest.raises(UserError, match=r"teacher\.precision=int8 is for CPUs; a GPU takes"):
        require_precision("int8", "cuda", "teacher.precision")


def test_an_object_keeps_its_weights_and_is_given_back(tmp_path: Path) -> None:
    teacher = timm_backbone("test_vit", pretrained=False, image_size=64)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    asked = {k: v for k, v in words(tmp_path).items() if k != "teacher.model"}
    asked |= {"teacher.precision": "bf16"}
    pretrain("tinymim", out=tmp_path, teacher=teacher, overrides=asked)
    assert teacher.precision is None
    assert "tap" not in vars(teacher)
    for name, value in teacher.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
