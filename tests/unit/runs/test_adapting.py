"""Batch, learning rates and precision that fit: what is replaced, what never is, what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vistill
from vistill.config.loading import load_config, recipe_names, said_settings
from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.runs.adapting import Adapted, adapt
from vistill.training.distributed import World
from vistill.training.optim import peak_lr
from vistill.training.precision import computes

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _a_gpu_computes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


def fit(
    recipe: str | None,
    words: dict[str, Any] | None = None,
    samples: int = 59,
    device: torch.device = CUDA,
    ranks: int = 1,
    marker: dict[str, Any] | None = None,
) -> Adapted:
    said = list((words or {}).items())
    return adapt(
        load_config(recipe, said),
        said_settings(recipe, said),
        world=World(0, ranks, device),
        samples=samples,
        noun="picture",
        marker=marker,
    )


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("samples", [2, 59, 3000])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_every_recipe_fits_any_folder_and_device(
    recipe: str, samples: int, ranks: int, device: torch.device
) -> None:
    asked = load_config(recipe, [])
    found = fit(recipe, samples=samples, device=device, ranks=ranks)
    batch = found.config.train.global_batch_size
    wanted = asked.train.global_batch_size
    assert 0 < batch <= min(samples, wanted)
    assert batch % ranks == 0
    if batch < wanted and samples >= 8:
        assert samples // batch >= 4
    if device == CPU:
        views = batch * asked.data.repeats
        assert views <= (64 if asked.data.frames is None else max(16, asked.data.repeats * ranks))
    scale = batch / wanted
    ours, theirs = found.config.optim, asked.optim
    assert peak_lr(ours, batch) == pytest.approx(scale * peak_lr(theirs, wanted))
    assert ours.min_lr == pytest.approx(scale * theirs.min_lr)
    assert ours.warmup_lr == pytest.approx(scale * theirs.warmup_lr)
    told = [note for note in found.notes if f"train.global_batch_size={batch}" in note]
    assert len(told) == (batch != wanted)
    if told:
        assert str(wanted) in told[0]
        assert f"{peak_lr(ours, batch):.3g} at its peak" in told[0]
    assert found.config.train.precision != "fp16" or device == CUDA
    if asked.train.precision != "fp16" and batch == wanted:
        assert found == Adapted(asked)


def test_what_fits_is_left_alone() -> None:
    assert fit("mae_tiny", samples=4096, device=CUDA) == Adapted(load_config("mae_tiny", []))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"train.global_batch_size": 40}, {"train.global_batch_size": 40}),
        ({"optim.lr": 1e-3}, {"optim.lr": 1e-3, "optim.min_lr": 2e-5}),
        ({"optim.min_lr": 1e-7}, {"optim.min_lr": 1e-7}),
        ({"optim.base_lr": 1e-3}, {"optim.base_lr": 1e-3, "optim.lr": None}),
        ({"train.micro_batch_size": 5}, {"train.global_batch_size": 10}),
    ],
)
def test_what_the_user_says_stays(words: dict[str, Any], expected: dict[str, Any]) -> None:
    found = fit("fd_clip_base", words)
    for key, value in expected.items():
        section, name = key.split(".")
        assert getattr(getattr(found.config, section), name) == value
    if "optim.lr" in words:
        assert "optim.lr=0.001 stays, as you set it" in found.notes[0]


def test_a_file_of_ones_own_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    vistill.recipes.copy("mae_tiny", path)
    assert fit(str(path)).config.train.global_batch_size == 4096
    with pytest.raises(UserError, match=r"train\.precision=fp16 is for CUDA devices"):
        fit(str(path), device=CPU)


@pytest.mark.parametrize("native", [True, False])
def test_precision_of_a_cpu(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    cheap = "bf16" if native else "fp32"
    for recipe in ("mae_tiny", "amd_small_k400"):  # of fp16 and of bf16
        found = fit(recipe, samples=9999, device=CPU)
        asked = load_config(recipe, []).train.precision
        assert found.config.train.precision == cheap
        told = f"train.precision={cheap} instead of {asked}, which this CPU lacks"
        assert (told in found.notes) == (asked != cheap)
    with pytest.raises(UserError, match=f"train.precision=fp16 .* a CPU takes {cheap}"):
        fit("mae", {"train.precision": "fp16"}, device=CPU)
    said = fit("mae", {"train.precision": "bf16", "train.global_batch_size": 8}, device=CPU)
    assert said.config.train.precision == "bf16"
    assert bool(said.notes) == (not native)
    assert computes(CPU, "fp32")


def test_more_ranks_than_pictures_or_too_large_a_part() -> None:
    with pytest.raises(UserError, match=r"train\.micro_batch_size=64 on 1 rank.* 59 training"):
        fit("mae_tiny", {"train.micro_batch_size": 64})


def test_a_run_keeps_what_it_was_given() -> None:
    begun = fit("fd_clip_base", device=CPU)
    fingerprint = json.loads(begun.config.model_dump_json())
    marker = {"fingerprint": fingerprint, "asked": dict(begun.asked)}
    again = fit("fd_clip_base", device=CUDA, marker=marker)
    assert again.config == begun.config
    assert all("as when this run began" in note for note in again.notes)
    assert len(again.notes) == 2
    other = fit("fd_clip_base", {"train.global_batch_size": 16}, device=CUDA, marker=marker)
    assert other.config.train.global_batch_size == 16
    # Begun where it all fitted, it does not change on a CPU, and says what that cannot do.
    large = json.loads(load_config("mae_tiny", []).model_dump_json())
    with pytest.raises(UserError, match=r"begun with train\.precision=fp16"):
        fit("mae_tiny", samples=9999, device=CPU, marker={"fingerprint": large})
    large["train"]["precision"] = "fp32"
    marker = {"fingerprint": large, "asked": {"train.precision": "fp16"}}
    found = fit("mae_tiny", samples=9999, device=CPU, marker=marker)
    assert found.config.train.global_batch_size == 4096
    assert found.config.train.precision == "fp32"


SMALL = {
    "student.model": "vit",
    "student.embed_dim": 16,
    "student.depth": 1,
    "student.num_heads": 2,
    "student.patch_size": 8,
    "method.decoder.embed_dim": 16,
    "method.decoder.depth": 1,
    "method.decoder.num_heads": 2,
    "data.image_size": 16,
    "data.workers": 0,
    "data.held_out": 0.0,
    "train.device": "cpu",
    "train.loggers": [],
    "train.epochs": 1,
    "optim.warmup_epochs": 0,
}


def test_told_at_the_start_and_kept_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    told = "train.global_batch_size=4 instead of 4096, as there are 27 training pictures"
    vistill.pretrain("mae_tiny", data=CELLS, out=out, overrides=SMALL, dry_run=True)
    assert told in capsys.readouterr().out
    assert not out.exists()
    vistill.pretrain("mae_tiny", data=CELLS, out=out, overrides=SMALL)
    assert told in capsys.readouterr().out
    kept = load_yaml((out / "config.yaml").read_text(), "config.yaml")
    assert kept["train"]["global_batch_size"] == 4
    again = vistill.pretrain("mae_tiny", data=CELLS, out=out, overrides=SMALL)
    assert again is not None
    assert again.steps == 6
    assert "instead of 4096, as when this run began" in capsys.readouterr().out
    # Its configuration is a recipe for the same run.
    vistill.pretrain(out / "config.yaml", out=out, dry_run=True)
    with pytest.raises(UserError, match=r"global_batch_size: 4 → 8"):
        vistill.pretrain(
            "mae_tiny", data=CELLS, out=out, overrides=SMALL | {"train.global_batch_size": 8}
        )
    with pytest.raises(UserError, match="larger than the number of training pictures, 27; leave"):
        vistill.pretrain(
            "mae_tiny", data=CELLS, out=out, overrides=SMALL | {"train.global_batch_size": 99}
        )


def test_random_weights_are_allowed_where_there_are_none_only(tmp_path: Path) -> None:
    teacher = Path(vistill.__file__).parent / "assets" / "blood_cells" / "teacher"
    settings = {key: value for key, value in SMALL.items() if not key.startswith("method.")}
    with pytest.raises(UserError, match=r"teacher\.weights=random .* are trained; leave it out"):
        vistill.pretrain(
            "feature_distillation",
            data=CELLS,
            out=tmp_path / "run",
            teacher=f"run:{teacher}",
            teacher_weights="random",
            overrides=settings | {"data.image_size": 32},
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("amx", [True, False])
def test_left_to_the_machine_precision_is_what_is_fast_and_stays(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    words = {"data.train": "x", "train.global_batch_size": 8}
    for said in ({}, {"train.precision": "auto"}):
        begun = fit("supervised", {**words, **said}, device=CPU)
        assert begun.config.train.precision == ("bf16" if amx else "fp32")
        assert begun.asked["train.precision"] == "auto"
        assert not any("precision" in note for note in begun.notes)
        assert fit("supervised", {**words, **said}, device=CUDA).config.train.precision == "bf16"
        marker = {
            "fingerprint": json.loads(begun.config.model_dump_json()),
            "asked": dict(begun.asked),
        }
        again = fit("supervised", {**words, **said}, device=CUDA, marker=marker)
        assert again.config == begun.config
        told = "train.precision=fp32, as when this run began"
        assert (told in again.notes) == (not amx)
    # A run from before there was such a word keeps the fp32 that it began with.
    old = {"fingerprint": {"train": {"precision": "fp32"}}, "asked": {}}
    assert fit("supervised", words, device=CUDA, marker=old).config.train.precision == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert fit("supervised", words, device=CUDA).config.train.precision == "fp32"
