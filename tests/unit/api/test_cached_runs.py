"""`cache=DIR` in whole runs, of pictures and clips: read or computed, the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cached_sides import sides, tiny_vit
from safetensors.torch import load_file

import vistill
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.errors import UserError
from vistill.methods.shared_view import SharedView

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"
SMALL = {"method.reconstruction": {"decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2}}}
CASES: dict[str, dict[str, Any]] = {
    "tinymim": {"method": "tinymim"},
    "tinymim masked": {"method": "tinymim", "method.input": "masked"},
    "amd": {"method": "amd", "data.frames": 4, "data.repeats": 2, **SMALL},
    "amd of pictures": {"method": "amd", **SMALL},
    "umt": {"method": "umt", "method.aligned_layers": 1, "data.frames": 2, "method.masks": 2},
    "feature_distillation of clips": {"method": "feature_distillation", "data.frames": 4},
    "relation_kd": {"method": "relation_kd", "method.queue_size": 6},
    "kdep of clips": {"method": "kdep", "data.frames": 4, "method.align": "channel_random",
                      "data.device_crop": True},
    "tinymim of two sources": {"method": "tinymim", "data.sources": {
        "one": {"train": str(CELLS / "red")}, "two": {"train": str(CELLS / "white")}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_motion_clips(open_source(str(CELLS)), folder, count=10, frames=8, size=32)
    return folder


def distil(case: str, clips: Path, out: Path, cache: Path | None, **more: Any) -> Any:
    settings = CASES[case]
    frames = settings.get("data.frames")
    of_clips: dict[str, Any] = {"data.stride": 2} if frames else {}
    overrides: dict[str, Any] = {
        "data.image_size": 16,
        "data.workers": 0,
        "data.held_out": 0.2,
        "train.epochs": 3,
        "train.global_batch_size": 4,
        "train.device": "cpu",
        "train.precision": "fp32",
        "train.loggers": [],
        "train.knn_probe": False,
        "optim.warmup_epochs": 0,
    } | of_clips
    if cache is not None:
        overrides |= {"cache.path": str(cache), "cache.views": 2, "cache.precision": "fp32"}
    return vistill.pretrain(
        data=None if "data.sources" in settings else clips if frames else CELLS,
        out=out,
        **sides(settings),
        overrides=overrides | settings | {name.replace("__", "."): x for name, x in more.items()},
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "last" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_warm_run_is_the_run_of_the_live_teacher(
    case: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Of the same views: one run asks the teacher at every step, one has written the cache."""
    with monkeypatch.context() as patch:
        patch.setattr(SharedView, "features", SharedView.live_features)
        live = distil(case, clips, tmp_path / "live", tmp_path / "unused")
    cold = distil(case, clips, tmp_path / "cold", tmp_path / "c")
    capsys.readouterr()
    warm = distil(case, clips, tmp_path / "warm", tmp_path / "c")
    told = capsys.readouterr().out
    for cache in told.split("outputs of the teacher were read")[:-1]:
        seen = cache.split()[-3:]
        assert seen[0] == seen[2]  # all
    assert cold.best == warm.best
    assert warm.terms == pytest.approx(live.terms, rel=1e-5)
    for name, value in weights(tmp_path / "cold").items():
        assert torch.equal(weights(tmp_path / "warm")[name], value), name
        torch.testing.assert_close(weights(tmp_path / "live")[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method__teacher_mask_ratio": 0.5}, "another output of the teacher (observed.mask_sizes"),
        ({"method__direct": {"pairs": [[1, 1]]}}, "another output of the teacher (observed.blocks"),
        ({"data__repeats": 1}, "another transform (transform.repeats: 2"),
        ({"data__stride": 1}, "another transform (transform.stride: 2 → 1)"),
        ({"data__sampling": "stretched"}, 'another transform (transform.sampling: "dense" → '),
        ({"data__device_crop": True}, "another transform (transform.device_crop: false → true)"),
    ],
)
def test_other_clips_and_masks_are_refused(
    change: dict[str, Any], reason: str, made: Path, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as told:
        distil("amd", clips, tmp_path / "run", made, **change)
    assert f"the cache {made} was made for {reason}" in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def made(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    distil("amd", clips, place / "run", place / "c")
    return place / "c"


@pytest.mark.slow
def test_a_cache_knows_what_its_teacher_computed_in(clips: Path, tmp_path: Path) -> None:
    """Made in bf16, it serves a student in fp32 that asks for such a teacher, and no other."""
    folder = tmp_path / "c"
    cold = distil("tinymim", clips, tmp_path / "cold", folder, train__precision="bf16")
    with pytest.raises(UserError) as told:
        distil("tinymim", clips, tmp_path / "fp32", folder)
    assert '(computed: "bf16" → "fp32")' in str(told.value)
    assert "or teacher.precision=bf16" in str(told.value)
    read = {"teacher__precision": "bf16"}
    warm = distil("tinymim", clips, tmp_path / "warm", folder, train__precision="bf16", **read)
    assert warm.terms == cold.terms
    again = distil("tinymim", clips, tmp_path / "fp32", folder, **read)
    assert again.terms == pytest.approx(cold.terms, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tinymim", "amd", "umt", "relation_kd"])
def test_a_run_that_broke_off_goes_on_with_its_cache(
    case: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distil(case, clips, tmp_path / "whole", tmp_path / "c1")
    asked, look = 0, SharedView.live_features

    def breaks(method: SharedView, batch: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 6:
            raise KeyError("power")
        return look(method, batch)

    often = {"train__checkpoint_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(SharedView, "live_features", breaks)
        with pytest.raises(KeyError, match="power"):
            distil(case, clips, tmp_path / "half", tmp_path / "c2", **often)
    distil(case, clips, tmp_path / "half", tmp_path / "c2", **often)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "half")[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_every_stage_of_a_chain_has_a_cache_of_its_own(tmp_path: Path, capsys: Any) -> None:
    def chain(out: str) -> str:
        vistill.pretrain(
            "tinymim",
            data=CELLS,
            out=tmp_path / out,
            teacher=tiny_vit(16, 1, None, 1),
            teacher_weights="random",
            chain=["vit", "vit"],
            overrides={
                "data.image_size": 16, "data.workers": 0, "train.epochs": 2,
                "train.global_batch_size": 8, "train.device": "cpu", "train.precision": "fp32",
                "train.loggers": [], "train.knn_probe": False, "optim.warmup_epochs": 0,
                "student.embed_dim": 8, "student.depth": 1, "student.num_heads": 2,
                "student.patch_size": 4, "cache.path": str(tmp_path / "c"), "cache.views": 1,
            },
        )  # fmt: skip
        return capsys.readouterr().out

    first, again = chain("one"), chain("two")
    for stage in ("1-vit", "2-vit"):
        assert f"cache    {tmp_path / 'c' / stage}: 0 of 27 records" in first
    assert again.count("52 of 52 outputs of the teacher were read, not computed") == 2
