"""Caches that do not fit, are cut short or damaged; a writer that is killed in the middle."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vistill
from vistill.data import cache as module
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout
from vistill.errors import UserError
from vistill.models.vit import VisionTransformer

CELLS = Path(__file__).parents[1] / "data" / "cells" / "train"
PICTURES, WIDTH = 1500, 1024


def write_everything(folder: Path) -> None:
    module._COMMIT_SECONDS = 0.005
    cache = TeacherCache(folder, Layout((WIDTH,), "fp32"), 2, PICTURES)
    assert cache.open_to_write({"format": 1})
    for view in range(2):
        for start in range(0, PICTURES, 4):
            ids = np.arange(start, start + 4)
            if not cache.read(view, ids).known.all():
                cache.store(view, ids, cache.layout.encode(content(view, ids).expand(4, WIDTH)))
    cache.close()
    os._exit(0)


def content(view: int, ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids + view * 10000.0).float()[:, None]


def whole_records(folder: Path) -> int:
    """How many records are marked, each of which is checked."""
    count = 0
    for view in range(2):
        cache = TeacherCache(folder, Layout((WIDTH,), "fp32"), 2, PICTURES)
        there = np.flatnonzero(cache.written(view))
        raw, _ = cache.read(view, there)
        assert (raw.numpy().view(np.float32) == content(view, there).numpy()).all()
        count += len(there)
    return count


def marks(folder: Path) -> int:
    return sum(path.read_bytes().count(1) for path in folder.glob("written-[01].bin"))


def test_killed_writers_leave_whole_records(tmp_path: Path) -> None:
    folder, counts = tmp_path / "c", [0]
    forks = multiprocessing.get_context("fork")
    for _ in range(3):
        process = forks.Process(target=write_everything, args=(folder,))
        process.start()
        while process.is_alive() and marks(folder) <= counts[-1] + 20:
            time.sleep(0.001)
        process.kill()
        process.join()
        counts.append(whole_records(folder))
    assert counts == sorted(set(counts))
    assert counts[-1] < 2 * PICTURES
    process = forks.Process(target=write_everything, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert whole_records(folder) == 2 * PICTURES


def model(width: int, seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(image_size=32, patch_size=8, embed_dim=width, depth=1, num_heads=2)


def distil(
    out: Path,
    cache: Path,
    *,
    seed: int = 1,
    data: Path = CELLS,
    teacher: VisionTransformer | None = None,
    dry: bool = True,
    **more: Any,
) -> Any:
    settings: dict[str, Any] = {
        "method": "feature_distillation",
        "data.image_size": 32,
        "data.workers": 0,
        "data.held_out": 0.2,
        "train.epochs": 2,
        "train.global_batch_size": 11,
        "train.device": "cpu",
        "train.precision": "fp32",
        "train.loggers": [],
        "train.knn_probe": False,
        "optim.warmup_epochs": 0,
        "cache.path": str(cache),
        "cache.views": 2,
    }
    return vistill.pretrain(
        data=data,
        out=out,
        teacher=teacher or model(24, seed),
        teacher_weights="random",
        student=model(16, 5),
        overrides=settings | {name.replace("__", "."): value for name, value in more.items()},
        dry_run=dry,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    distil(place / "run", place / "c", dry=False)
    return place / "c"


def test_a_cache_of_something_else_is_refused_with_the_reason(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distil(out, made)  # the run it was made for
    distil(out, made, optim__lr=1.0, method__beta=1.0)  # and another student's
    other = 'a teacher in another type (computed: "fp32" → "bf16"); choose another folder for this '
    refused = {
        f"{other}run, or teacher.precision=fp32": {"train__precision": "bf16"},
        other: {"teacher__precision": "bf16"},
        "another teacher (teacher.weights: ": {"seed": 2},
        "another transform (transform.flip: 0.5 → 0.0)": {"data__flip": 0.0},
        "another transform (transform.crop_scale": {"data__crop_scale": [0.5, 1.0]},
        "another output of the teacher (observed.signal: ": {"method__after_norm": False},
        "another output of the teacher (observed.part: ": {"method__target": "pooled"},
        "other records (stored.views: 2 → 3)": {"cache__views": 3},
        'other records (stored.precision: "bf16" → "int8"': {"cache__precision": "int8"},
    }
    for reason, change in refused.items():
        with pytest.raises(UserError) as told:
            distil(out, made, **change)
        assert f"the cache {made} was made for {reason}" in str(told.value)
    # It says what its teacher computes in, whatever the student does.
    distil(out, made, train__precision="bf16", teacher__precision="fp32")
    few = tmp_path / "few"
    shutil.copytree(CELLS, few)
    next(few.glob("*/*")).unlink()
    with pytest.raises(UserError, match=r"was made for other pictures \(pictures: "):
        distil(out, made, data=few)
    assert not out.exists()


def test_damage_is_noticed_before_any_work(made: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "run", tmp_path / "c"
    shutil.copytree(made, copy)
    os.truncate(copy / "records-1.bin", 1000)
    with pytest.raises(UserError, match=r"is damaged: records-1.bin has 1000 bytes instead of"):
        distil(out, copy)
    shutil.rmtree(copy)
    shutil.copytree(made, copy)
    with (copy / "records-0.bin").open("r+b") as file:
        file.write(b"\x11" * (copy / "records-0.bin").stat().st_size)
    with pytest.raises(UserError, match=r"disagrees with the teacher on \w+/.*, by .* %: "):
        distil(out, copy)
    shutil.rmtree(copy)
    shutil.copytree(made, copy)
    for name in ("records-0.bin", "records-test.bin"):  # NaN in bf16
        with (copy / name).open("r+b") as file:
            file.write(b"\xc0\x7f" * ((copy / name).stat().st_size // 2))
        with pytest.raises(UserError, match=r"disagrees with the teacher on \w+/.*, by inf %: "):
            distil(out, copy)
        shutil.copy2(made / name, copy / name)

    # Pictures of the same names with other content.
    others = tmp_path / "others"
    shutil.copytree(CELLS, others)
    for number, path in enumerate(sorted(others.glob("*/*"))):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    with pytest.raises(UserError, match=r"made for other pictures: 27 of 27 have been replaced"):
        distil(out, made, data=others)
    assert not out.exists()


def test_what_cannot_be_cached(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, cache = tmp_path / "run", tmp_path / "c"
    for method in ("feature_distillation", "tinymim"):
        with pytest.raises(UserError, match=r"drop path is random, so its outputs cannot be cache"):
            distil(out, cache, method=method, teacher__drop_path=0.1)
    for few in ("int8", "int4"):
        with pytest.raises(UserError, match=rf"precision={few} scales the channels of a map"):
            distil(out, cache, method__target="pooled", cache__precision=few)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"needs \d+ KB more and the disk has 1 KB free"):
            distil(out, cache)
        assert distil(out, made) is None  # complete: needs no space
    assert not cache.exists()
    assert not out.exists()


def test_every_part_of_the_cache_is_read_back(made: Path, tmp_path: Path) -> None:
    index = json.loads((made / "cache.json").read_text())
    assert index["stored"] == {"views": 2, "precision": "bf16", "shape": [17, 24]}
    asked: list[int] = []

    class Watched(VisionTransformer):
        def tap(self, images: Any, *arguments: Any, **named: Any) -> Any:
            asked.append(len(images))
            return super().tap(images, *arguments, **named)

    teacher = model(24, 1)
    teacher.__class__ = Watched
    result = distil(tmp_path / "run", made, teacher=teacher, dry=False)
    assert result.best is not None
    # A look at the shape of a record, and a few pictures of each view to compare with.
    assert asked == [1, 5, 5, 5]
