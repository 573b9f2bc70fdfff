"""What a batch holds beside pixels: made for the very rows, and no draw of a crop moved by it."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vistill.batch import Batch
from vistill.data import BrokenFiles, EvalTransform, TrainStream, eval_batches, open_source
from vistill.data.inputs import Items, Joined, stacked
from vistill.data.transforms import TrainTransform
from vistill.errors import UserError

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"


class Words:
    """Two numbers of the sample's name, and one that is drawn."""

    def __call__(self, source, sample, rng):
        name = source.sample_name(sample)
        return {
            "text": np.array([len(name), sum(name.encode())]),
            "drawn": rng.random(3, dtype=np.float32),
        }


def stream(folder=CELLS, inputs=None, workers=0, **options) -> TrainStream:
    source = open_source(str(folder))
    found = TrainStream(
        source,
        np.arange(len(source)),
        TrainTransform(16),
        seed=3,
        global_batch_size=6,
        micro_batch_size=3,
        workers=workers,
        max_broken=1.0,
        **options,
    )
    found.use_inputs(inputs)
    return found


def whole(batches: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([getattr(b, name) if hasattr(b, name) else b.inputs[name] for b in batches])


@pytest.mark.parametrize("repeats", [1, 2])
def test_inputs_are_of_their_rows_and_move_no_crop(repeats):
    plain = list(stream(repeats=repeats).iterate(0, 8))
    assert plain[0].inputs == {}
    for workers in (0, 2):
        data = stream(inputs=Words(), workers=workers, repeats=repeats)
        found = list(data.iterate(0, 8))
        data.close()
        for name in ("pixels", "seeds", "ids"):
            assert torch.equal(whole(found, name), whole(plain, name)), name
        names = [data._reader.name(i) for i in whole(found, "ids").tolist()]
        text = [[len(name), sum(name.encode())] for name in names]
        assert whole(found, "text").tolist() == text
        drawn = whole(found, "drawn")
        assert drawn.dtype == torch.float32
        # Every row of every epoch, copies included, draws for itself.
        assert len(drawn.unique(dim=0)) == len(drawn)


def test_inputs_are_a_function_of_seed_and_step():
    data = list(stream(inputs=Words()).iterate(0, 6))
    late = list(stream(inputs=Words(), workers=1).iterate(4, 6))
    ranks = [list(stream(inputs=Words(), rank=r, world_size=2).iterate(0, 6)) for r in range(2)]
    for name in ("text", "drawn"):
        assert torch.equal(whole(data[8:], name), whole(late, name))
        both = [rank[step] for step in range(6) for rank in ranks]
        assert torch.equal(whole(data, name), whole(both, name))


def test_a_replaced_sample_brings_its_own_inputs(tmp_path):
    folder = tmp_path / "cells"
    shutil.copytree(CELLS, folder)
    broken = sorted(folder.rglob("*.jpg"))[:3] or sorted(folder.rglob("*.png"))[:3]
    for path in broken:
        path.write_bytes(b"nothing")
    data = stream(folder, inputs=Joined(Words(), Items("cells", 2)))
    steps = data.steps_per_epoch
    found = list(data.iterate(0, steps))
    assert data.broken.names
    names = [data._reader.name(i) for i in whole(found, "ids").tolist()]
    assert not set(names) & set(data.broken.names)
    assert whole(found, "text").tolist() == [[len(n), sum(n.encode())] for n in names]
    items = whole(found, "item").tolist()
    assert len(set(items)) == len(set(names))
    assert whole(found, "source").tolist() == [2] * len(names)


def test_tests_have_inputs_too():
    source = open_source(str(CELLS))
    batches = list(
        eval_batches(
            source,
            np.array([4, 2, 9]),
            EvalTransform(16),
            batch_size=2,
            workers=0,
            broken=BrokenFiles(3, 1.0),
            inputs=Words(),
        )
    )
    names = [source.sample_name(i) for i in (4, 2, 9)]
    assert whole(batches, "text").tolist() == [[len(n), sum(n.encode())] for n in names]


def test_items_of_sources_never_collide():
    source, rng = open_source(str(CELLS)), np.random.default_rng(0)
    found = {
        int(pickle.loads(pickle.dumps(Items(name, 1)))(source, i, rng)["item"])
        for name in ("", "a", "b")
        for i in range(20)
    }
    assert len(found) == 60
    assert Items("a")(source, 3, rng)["item"].dtype == np.int64


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"a": np.zeros(2)}, {"a": np.zeros(3)}],
            r"'a' of samples cannot be stacked.*\[2\].*\[3\]",
        ),
        ([{"a": np.zeros(2)}, {"a": np.zeros(2, int)}], "float64.*int64"),
        ([{"a": np.zeros(2)}, {}], "different names: a, and none"),
        ([{"a": np.array("word")}], "'a' .*no numbers"),
        ([3], "a mapping"),
    ],
)
def test_what_cannot_be_a_batch_is_told(rows, message):
    with pytest.raises(UserError, match=message):
        stacked(rows)


def test_a_loader_process_tells_it_too():
    data = stream(inputs=Uneven(), workers=1)
    with pytest.raises(UserError, match="cannot be stacked"):
        list(data.iterate(0, 1))
    data.close()


class Uneven(Words):
    def __call__(self, source, sample, rng):
        return {"text": np.zeros(sample)}
