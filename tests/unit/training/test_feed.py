"""Batches come in order, and, where there is a device to copy them to, one step ahead."""

import pytest
import torch

from vistill.batch import Batch
from vistill.training.feed import Feed, copier


def batches(count, taken, error=None):
    for number in range(count):
        taken.append(number)
        yield Batch(torch.full((1, 3, 2, 2), float(number)), torch.zeros(1), torch.tensor([number]))
    if error is not None:
        raise error


class Copies:
    def __init__(self):
        self.events = []

    def __call__(self, batch):
        number = int(batch.ids)
        self.events.append(f"begin {number}")

        def there():
            self.events.append(f"use {number}")
            return batch

        return there


def test_without_a_device_nothing_is_taken_ahead():
    taken = []
    feed = Feed(batches(2, taken), copier(torch.device("cpu")))
    assert int(feed.peek().ids) == 0
    assert int(feed.take().ids) == 0
    feed.fetch()
    assert taken == [0]
    assert int(feed.take().ids) == 1
    with pytest.raises(StopIteration):
        feed.take()


def test_the_next_copy_begins_before_the_batch_is_asked_for():
    copies = Copies()
    feed = Feed(batches(3, []), copies)
    assert int(feed.peek().ids) == 0
    found = []
    for _ in range(3):
        found.append(int(feed.take().ids))
        feed.fetch()
        feed.fetch()  # one ahead, no more
    assert found == [0, 1, 2]
    assert copies.events == ["begin 0", "use 0", "begin 1", "use 1", "begin 2", "use 2"]
    with pytest.raises(StopIteration):
        feed.take()


def test_what_keeps_a_batch_from_coming_is_told_where_it_is_taken():
    feed = Feed(batches(1, [], ValueError("broken")), Copies())
    feed.take()
    feed.fetch()
    with pytest.raises(ValueError, match="broken"):
        feed.take()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and pytest -m gpu")
def test_copies_to_a_gpu_are_whole():
    feed = Feed(batches(20, []), copier(torch.device("cuda")))
    for number in range(20):
        batch = feed.take()
        feed.fetch()
        assert batch.pixels.is_cuda
        assert (batch.pixels == number).all()
