"""Records of a teacher: their rounding, their marks, who writes them, and a disk that is full."""

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vistill.data import TrainStream, TrainTransform, open_source
from vistill.data import cache as module
from vistill.data.cache import INDEX, Found, TeacherCache, read_index
from vistill.data.records import Layout
from vistill.errors import UserError
from vistill.random import sample_seeds

CELLS = Path(__file__).parents[2] / "data" / "cells"


def make(folder: Path, precision: str = "fp32", shape: tuple[int, ...] = (6,)) -> TeacherCache:
    cache = TeacherCache(folder, Layout(shape, precision), views=2, pictures=10)
    cache.open_to_write({"format": 1})
    return cache


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers)


def known(cache: TeacherCache, view: int, *numbers: int) -> list[bool]:
    return cache.read(view, ids(*numbers)).known.tolist()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_rounding_of_a_record(precision):
    torch.manual_seed(0)
    values = torch.randn(3, 7, 4) * torch.tensor([1e-3, 1.0, 50.0, 0.0]) + 5
    layout = Layout((7, 4), precision)
    raw = layout.encode(values)
    assert raw.dtype == torch.uint8
    assert raw.shape == (3, layout.nbytes)
    error = (layout.decode(raw) - values).abs()
    span = values.amax(1, keepdim=True) - values.amin(1, keepdim=True)
    allowed = {
        "fp32": torch.zeros_like(values),
        "bf16": values.abs() * 2**-8,
        "int8": span / 510 + values.abs() * 1e-6,
        "int4": (span.amax(2, keepdim=True) / 30 + values.abs().amax() / 254).expand_as(values),
    }[precision]
    assert (error <= allowed).all()
    assert precision == "fp32" or error.max() > 0
    again = layout.decode(layout.encode(layout.decode(raw)))
    if precision == "int4":  # ends that no value has reached move the levels
        assert (again - layout.decode(raw)).abs().max() < 2 * error.max()
    else:
        torch.testing.assert_close(again, layout.decode(raw), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(5, 3), (7, 3, 24), (197, 3, 64), (4, 130)])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_few_bits_of_many_channels(shape, precision):
    torch.manual_seed(0)
    scales = torch.rand(shape[1:]) * 10 ** torch.randint(-3, 3, shape[1:]).float()
    values = torch.randn(2, *shape) * scales + 3 * scales * torch.randn(shape[1:])
    values[:, 0] *= 20  # a token far out
    layout = Layout(shape, precision)
    raw = layout.encode(values)
    assert raw.shape == (2, layout.nbytes)
    found, channels = layout.decode(raw), values.flatten(2)
    assert found.shape == values.shape
    # Half a step, which the widest range of eight neighbours sets: 15 steps, and where it lies.
    wide = channels.amax(1) - channels.amin(1)
    if precision == "int4":
        middle = (channels.amax(1) + channels.amin(1)).abs() / 2
        wide = torch.cat(
            [part.amax(1, keepdim=True).expand_as(part) for part in wide.split(8, dim=1)], dim=1
        )
        lies = torch.cat(
            [part.amax(1, keepdim=True).expand_as(part) for part in middle.split(64, dim=1)], dim=1
        )
        allowed = 1.01 * (wide / 30 + lies / 254 / 15)
    else:
        allowed = wide / 510 + channels.abs().amax(1) * 1e-6
    assert ((found - values).abs().flatten(2) <= allowed[:, None]).all()
    one = Layout((1, *shape[1:]), precision)  # a constant is its own middle
    error = (one.decode(one.encode(values[:, :1])) - values[:, :1]).abs().flatten(2)
    assert (error <= values[:, :1].flatten(2).abs().amax() / 100 + 1e-6).all()


def test_the_relations_of_a_vit_base_take_a_quarter():
    assert Layout((197, 3, 768), "int4").nbytes <= 230_000


def test_records_of_other_runs_and_of_loader_processes(tmp_path):
    cache = make(tmp_path / "c")
    raw = cache.layout.encode(torch.arange(12.0).view(2, 6))
    assert known(cache, 1, 3, 7) == [False, False]
    cache.store(1, ids(3, 7), raw)
    other = TeacherCache(cache.folder, cache.layout, 2, 10)
    assert known(other, 1, 3, 7) == [False, False]
    cache.close()
    assert torch.equal(other.read(1, ids(7, 3)).raw, raw.flip(0))
    assert known(other, 1, 7, 2) == [True, False]
    assert known(other, 0, 7) == [False]
    assert other.written(1).tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert cache.bytes_per_picture == 2 * 6 * 4


def test_a_record_without_its_mark_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_COMMIT_SECONDS", 0.0)
    cache = make(tmp_path / "c")
    for number in range(3):
        cache.store(0, ids(number), cache.layout.encode(torch.full((1, 6), float(number))))
    # As after kill -9: the last batch is pending, nothing was closed.
    other = TeacherCache(cache.folder, cache.layout, 2, 10)
    assert other.written(0).tolist()[:4] == [1, 1, 0, 0]
    assert known(other, 0, 0, 1, 2) == [True, True, False]
    cache.close()


def _try_to_write(folder: Path) -> None:
    cache = TeacherCache(folder, Layout((6,), "fp32"), views=2, pictures=10)
    os._exit(0 if cache.open_to_write({"format": 1}) else 3)


def test_one_run_writes_and_the_others_read(tmp_path):
    cache = make(tmp_path / "c")
    forks = multiprocessing.get_context("fork")

    def outcome() -> int:
        process = forks.Process(target=_try_to_write, args=(cache.folder,))
        process.start()
        process.join()
        return process.exitcode

    assert outcome() == 3
    cache.close()
    assert outcome() == 0


def test_a_full_disk_ends_the_writing_only(tmp_path, monkeypatch, caplog):
    cache = make(tmp_path / "c")
    raw = cache.layout.encode(torch.ones(1, 6))
    cache.store(0, ids(1), raw)
    cache.store(0, ids(2), raw)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        cache.store(0, ids(3), raw)
    assert not cache.writes
    assert [record.message for record in caplog.records] == [
        f"the cache {cache.folder} grows no further (No space left on device): what it holds is "
        "read, and the teacher runs for the rest"
    ]
    cache.store(0, ids(4), raw)
    cache.close()
    assert TeacherCache(cache.folder, cache.layout, 2, 10).written(0).sum() == 1


def test_the_teacher_is_asked_once_about_every_picture(tmp_path):
    cache = make(tmp_path / "c", "bf16")
    values = torch.randn(10, 6)
    asked: list[int | None] = []

    def cached(*numbers: int, trying: bool = False) -> torch.Tensor:
        pictures = torch.tensor(numbers)
        seeds = torch.from_numpy(cache.seeds(0, ids(*numbers)))
        view = cache.for_batch(0, pictures, seeds, cache.read(0, ids(*numbers)))
        view = view.take(torch.arange(len(numbers))) if trying else view

        def teacher(rows: torch.Tensor | None) -> torch.Tensor:
            asked.append(None if rows is None else rows.tolist())
            return values[pictures if rows is None else pictures[rows]]

        found = view.features(teacher)
        cache.store(1, ids(0), cache.layout.encode(values[:1]))  # the batch before is written now
        assert torch.equal(found, values[pictures].bfloat16().float())
        return found

    cached(4, trying=True)
    cached(4, 5)
    cached(5, 4)
    cached(6, 5, 7, 4)
    cached(7, 6, 5, 4)
    assert asked == [None, None, [0, 2]]
    assert (cache.read_pictures, cache.computed_pictures) == (8, 5)
    cache.close()


def test_a_folder_that_is_no_cache(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and no cache of a teacher \(it holds notes"):
        read_index(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        read_index(tmp_path / "notes.txt")
    cache = make(tmp_path / "c")
    cache.close()
    with pytest.raises(UserError, match=r"by another version of vistill \(format 1, not 2\)"):
        read_index(cache.folder)  # which did not know what its teacher computed in
    (cache.folder / INDEX).write_text('{"format": 2}')
    assert read_index(cache.folder) == {"format": 2}
    (cache.folder / INDEX).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_index(cache.folder)
    (cache.folder / INDEX).unlink()
    assert read_index(cache.folder) is None  # a start that was killed


def test_epochs_show_the_fixed_views(tmp_path):
    source = open_source(str(CELLS / "train"))

    def epochs(seed: int, workers: int) -> list[dict[int, torch.Tensor]]:
        cache = TeacherCache(tmp_path / "none", Layout((6,), "fp32"), 2, len(source))
        cache.read = lambda view, ids: Found(torch.empty(len(ids), 0), np.zeros(len(ids), bool))
        stream = TrainStream(
            source,
            np.arange(len(source)),
            TrainTransform(16),
            seed=seed,
            global_batch_size=len(source),
            micro_batch_size=len(source),
            workers=workers,
            max_broken=0.0,
        )
        stream.use([cache])
        found = []
        for batch in stream.iterate(0, 3):
            assert torch.equal(batch.view_seeds, batch.cached.seeds)
            seeds = cache.seeds(batch.cached.views[0], batch.ids.numpy())
            assert batch.view_seeds.tolist() == seeds.tolist()
            found.append(dict(zip(batch.ids.tolist(), batch.pixels, strict=True)))
        stream.close()
        return found

    first, second = epochs(0, 0), epochs(1, 0)
    for i in range(len(source)):
        assert torch.equal(first[0][i], first[2][i])
        assert torch.equal(first[1][i], second[1][i])
        assert not torch.equal(first[0][i], first[1][i])
    assert list(first[0]) != list(second[0])  # the order is the run's own
    assert (
        sample_seeds(0, 1, np.arange(3))
        == TeacherCache(tmp_path, Layout((1,), "fp32"), 2, 3).seeds(1, np.arange(3))
    ).all()


def test_what_is_forgotten_is_asked_for_again(tmp_path):
    cache = make(tmp_path / "c")
    for view in range(3):
        values = torch.arange(60.0).view(10, 6) + 100 * view
        cache.store(view, np.arange(10), cache.layout.encode(values))
    cache.close()
    cache = make(tmp_path / "c")
    cache.forget(ids(2, 7))
    for view in range(3):
        known = cache.read(view, np.arange(10)).known
        assert np.flatnonzero(~known).tolist() == [2, 7]
    cache.store(1, ids(7), cache.layout.encode(torch.full((1, 6), 5.0)))
    cache.close()
    found = make(tmp_path / "c").read(1, ids(7, 8))
    assert found.known.all()
    assert make(tmp_path / "d", shape=(6,)).layout.decode(found.raw)[0].tolist() == [5.0] * 6
