"""A mixture of sources: which source comes when is arithmetic, and every row is its source's."""

import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistill.batch import Batch
from vistill.config.data import DataConfig
from vistill.config.section import MethodSection
from vistill.data import BrokenFiles
from vistill.data.mixture import MixtureRequests, MixtureStream
from vistill.data.stream import StepRequests
from vistill.errors import UserError
from vistill.random import named_seed
from vistill.runs.reading import Reading, open_samples, require_samples

DATA = Path(__file__).parents[2] / "data"
CELLS, VIDEOS = str(DATA / "cells" / "train"), str(DATA / "videos")
CLIPS = {"train": VIDEOS, "frames": 2, "stride": 1, "weight": 2.0}


@st.composite
def mixtures(draw):
    """Sizes, passes, batch and seed of a mixture, and a number of ranks and micro-batches."""
    ranks, micros, micro = (draw(st.integers(1, 3)) for _ in range(3))
    batch = ranks * micros * micro
    sources = draw(
        st.lists(
            st.tuples(st.integers(batch, 5 * batch + 2), st.floats(0.2, 3.0)),
            min_size=1,
            max_size=4,
        )
    )
    return sources, batch, micro, ranks, draw(st.integers(0, 2**31))


def requests(mixture, *, rank=0, ranks=1, micro=None) -> MixtureRequests:
    sources, batch, _, _, seed = mixture
    parts, first = [], 0
    for number, (size, _) in enumerate(sources):
        parts.append(
            StepRequests(
                np.arange(first, first + size),
                seed=named_seed(seed, str(number)),
                global_batch_size=batch,
                micro_batch_size=micro or batch,
                rank=rank,
                world_size=ranks,
            )
        )
        first += size
    return MixtureRequests(parts, [passes for _, passes in sources], seed)


def asked(found: MixtureRequests, start: int, stop: int) -> list:
    found.start, found.stop = start, stop
    return [(request.epoch, request.samples.tolist()) for request in found]


@settings(max_examples=60, deadline=None)
@given(mixtures())
def test_an_epoch_goes_through_each_source_as_often_as_it_should(mixture):
    sources, batch, *_ = mixture
    found = requests(mixture)
    borders = np.cumsum([0, *(size for size, _ in sources)])
    seen: list[list[int]] = [[] for _ in sources]
    epochs = 4
    turns = [found.turn(step)[0] for step in range(epochs * found.steps_per_epoch)]
    for _, samples in asked(found, 0, epochs * found.steps_per_epoch):
        assert len(samples) == batch
        (number,) = set(np.searchsorted(borders, samples, side="right") - 1)
        assert number == turns.pop(0)
        seen[number] += samples
    for number, (size, passes) in enumerate(sources):
        each = size // batch
        steps = max(1, round(passes * each))
        assert len(seen[number]) == epochs * steps * batch
        assert found.steps[number] == steps
        # No sample of a source comes again before all of them came, but for the rest of a pass.
        own = seen[number]
        for start in range(0, len(own), each * batch):
            one_pass = own[start : start + each * batch]
            assert len(set(one_pass)) == len(one_pass)
    assert found.steps_per_epoch == sum(found.steps)
    for epoch in range(epochs):
        steps = range(epoch * found.steps_per_epoch, (epoch + 1) * found.steps_per_epoch)
        counts = Counter(found.turn(step)[0] for step in steps)
        assert [counts[number] for number in range(len(sources))] == found.steps


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.integers(0, 40), st.integers(1, 12))
def test_ranks_micro_batches_and_resuming_change_nothing(mixture, start, count):
    _, batch, micro, ranks, _ = mixture
    one = requests(mixture)
    whole = asked(one, 0, start + count)
    assert asked(requests(mixture), start, start + count) == whole[start:]
    assert asked(one, start, start + count) == whole[start:]  # after other steps were asked for
    parts = [
        asked(requests(mixture, rank=r, ranks=ranks, micro=micro), start, start + count)
        for r in range(ranks)
    ]
    each = batch // ranks // micro
    for step, (epoch, samples) in enumerate(whole[start:]):
        mine = [request for part in parts for request in part[step * each : (step + 1) * each]]
        assert {request[0] for request in mine} == {epoch}
        assert [sample for request in mine for sample in request[1]] == samples


def test_the_order_of_steps_is_shuffled_by_seed_and_epoch():
    def turns(seed, epoch):
        found = requests(([(40, 1.0), (40, 1.0)], 4, 4, 1, seed))
        return [found.turn(epoch * 20 + step)[0] for step in range(20)]

    orders = {tuple(turns(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert turns(1, 2) == turns(1, 2)
    # Sources of one size are not shown in one order.
    found = requests(([(40, 1.0), (40, 1.0)], 4, 4, 1, 0))
    first, second = (next(iter(part.of_step(0))).samples for part in found.parts)
    assert first.tolist() != (second - 40).tolist()


# ---- with samples


def reading(**sources) -> Reading:
    sources = sources or {"cells": {"train": CELLS}, "clips": CLIPS}
    return open_samples(DataConfig.model_validate({"sources": sources, "image_size": 16}))


def stream(read: Reading, **options) -> MixtureStream:
    usual = {"seed": 3, "global_batch_size": 4, "micro_batch_size": 2, "workers": 0}
    train, _ = read.split(0.0, 0)
    return MixtureStream(read.parts, train, max_broken=0.5, **(usual | options))


def fields(batches: list[Batch]) -> list[dict[str, torch.Tensor]]:
    return [{"pixels": b.pixels, "seeds": b.seeds, "ids": b.ids} | b.inputs for b in batches]


def same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, other in zip(fields(a), fields(b), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_and_clips():
    read = reading()
    data = stream(read)
    assert len(read.source) == 40
    assert data.steps_per_epoch == 6 + 6
    assert data.steps == {"cells": 6, "clips": 6}
    batches = list(data.iterate(0, 24))
    firsts = [part.first for part in read.parts]
    assert firsts == [0, 27]
    items: dict[int, int] = {}
    for batch in batches:
        (source,) = set(batch.inputs["source"].tolist())
        assert batch.pixels.shape == ((2, 3, 16, 16), (2, 3, 2, 16, 16))[source]
        assert all((i >= 27) == source for i in batch.ids.tolist())
        assert batch.labels is None
        names = [read.source.sample_name(i) for i in batch.ids.tolist()]
        assert all(name.startswith(("cells: ", "clips: ")[source]) for name in names)
        for sample, item in zip(batch.ids.tolist(), batch.inputs["item"].tolist(), strict=True):
            assert items.setdefault(sample, item) == item
    assert len(set(items.values())) == len(items)
    assert len({seed for batch in batches for seed in batch.seeds.tolist()}) == 96

    for workers in (1, 2):
        aside = stream(read, workers=workers)
        same(list(aside.iterate(0, 24)), batches)
        same(list(aside.iterate(9, 13)), batches[18:26])
        aside.close()
    ranks = [list(stream(read, rank=r, world_size=2).iterate(2, 8)) for r in range(2)]
    same([rank[step] for step in range(6) for rank in ranks], batches[4:16])
    kinds = [stream(read, rank=r, world_size=2).kinds() for r in range(2)]
    assert [[batch.pixels.dim() for batch in each] for each in kinds] == [[4, 5], [4, 5]]
    for of_ranks in zip(*kinds, strict=True):  # as in a step, no sample is shown twice
        assert len({i for batch in of_ranks for i in batch.ids.tolist()}) == 4


def test_own_settings_of_a_source():
    read = reading(
        a={"train": CELLS, "flip": 0.0, "crop_scale": [1, 1], "crop_ratio": [1, 1]},
        b={"train": CELLS},
    )
    a, b = read.parts
    assert (a.train.flip, a.train.scale) == (0.0, (1.0, 1.0))
    assert (b.train.flip, b.train.scale) == (0.5, (0.2, 1.0))
    assert read.source.media.noun == "picture"


def test_what_data_says_holds_for_every_source_that_says_nothing():
    said = {"flip": 0.25, "value_range": [0, 4095], "stride": 3}
    data = DataConfig.model_validate(
        said | {"sources": {"a": {"train": "x"}, "b": {"train": "y", "frames": 8, "flip": 0.75}}}
    )
    a, b = (data.of_source(name) for name in "ab")
    assert (a.flip, a.value_range, a.stride, a.crop) == (0.25, (0, 4095), 4, "resized")
    assert (b.flip, b.value_range, b.stride, b.crop) == (0.75, None, 3, "multi_scale")
    assert (a.interpolation, b.interpolation) == ("bicubic", "bilinear")
    assert data.frames == 8
    assert DataConfig.model_validate(data.model_dump()) == data
    assert DataConfig.model_validate(data.model_dump()).of_source("b") == b


class Words:
    def __call__(self, source, sample, rng):
        return {"text": np.array([len(source.sample_name(sample)), len(source)])}


def test_the_inputs_of_a_method_are_those_of_the_source():
    read = reading()
    data = stream(read)
    data.use_inputs(Words())
    for batch in data.iterate(0, 6):
        number = int(batch.inputs["source"][0])
        part = read.parts[number]
        names = [part.source.sample_name(i - part.first) for i in batch.ids.tolist()]
        assert batch.inputs["text"].tolist() == [[len(n), len(part.source)] for n in names]
    held = np.array([1, 30, 2])
    options = {"batch_size": 4, "workers": 0, "broken": data.broken}
    for train_view in (False, True):
        found = list(read.eval_batches(held, train_view=train_view, **options))
        assert [batch.ids.tolist() for batch in found] == [[1, 2], [30]]
        assert [batch.pixels.dim() for batch in found] == [4, 5]


def test_a_method_asks_for_what_is_made_of_a_sample():
    class Asks(MethodSection):
        reads_inputs = ("item",)

    alone = DataConfig(train=CELLS, image_size=16)
    assert open_samples(alone, MethodSection()).inputs is None
    read = open_samples(alone, Asks())
    options = {"batch_size": 4, "workers": 0, "broken": BrokenFiles(4, 1.0)}
    (batch,) = read.eval_batches(np.array([4, 1, 4]), **options)
    items = batch.inputs["item"].tolist()
    assert items[0] == items[2] != items[1]
    assert batch.inputs["source"].tolist() == [0, 0, 0]


def test_broken_samples_are_replaced_within_their_source_and_named(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(CELLS, tmp_path / name)
    broken = sorted(path for path in (tmp_path / "b").rglob("*") if path.is_file())[:6]
    for path in broken:
        path.write_bytes(b"nothing")
    read = reading(a={"train": str(tmp_path / "a")}, b={"train": str(tmp_path / "b")})
    data = stream(read)
    batches = list(data.iterate(0, 2 * data.steps_per_epoch))
    wanted = {f"b: {path.relative_to(tmp_path / 'b')}" for path in broken}
    assert set(data.broken.names) <= wanted
    assert len(data.broken.names) >= 5
    for batch in batches:
        names = {read.source.sample_name(i) for i in batch.ids.tolist()}
        assert not names & wanted
        assert len({name[0] for name in names}) == 1


def test_a_mixture_stands_for_its_samples():
    read = reading()
    source = read.source
    assert source.stamps().shape == (40, 2)
    assert source.fingerprint().startswith("cells: 27 named ")
    assert source.name == "data.sources (cells, clips)"
    assert source.media.noun == "sample"
    assert source.place(30) == read.parts[1].source.place(3)
    assert source.read(2) == read.parts[0].source.read(2)
    assert (source.labels, source.classes) == (None, None)
    assert source.unlabelled.meant
    for wrong in (-1, 40):
        with pytest.raises(IndexError):
            source.sample_name(wrong)
    train, held = read.split(0.1, 0)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(40))
    assert [len(part.own(held)) for part in read.parts] == [3, 1]
    assert [len(part.own(train)) for part in read.parts] == [24, 12]
    assert isinstance(require_samples(read), list)
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()


def test_a_source_too_small_for_a_batch_is_named():
    with pytest.raises(UserError, match=r"data\.sources\.clips: .*=16 is larger than .* clips, 13"):
        stream(reading(), global_batch_size=16, micro_batch_size=16)


def test_a_source_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"data\.sources\.b: '/no/where' does not exist"):
        reading(a={"train": CELLS}, b={"train": "/no/where"})
