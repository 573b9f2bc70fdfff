"""Batches of clips: repeats, views, broken files, crops on the device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vistill.data import BrokenFiles, TrainStream, eval_batches, open_source
from vistill.data.cache import Found, TeacherCache
from vistill.data.motion_clips import write_video
from vistill.data.records import Layout
from vistill.data.video.clips import ClipDecoder, require_clips
from vistill.data.video.device import DeviceCrop
from vistill.data.video.transforms import VideoTestTransform, VideoTrainTransform
from vistill.errors import UserError
from vistill.random import copy_seed

COUNT, LENGTH = 8, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        base = torch.randint(0, 256, (1, 6, 8, 3), generator=generator)
        frames = base.repeat_interleave(8, 1).repeat_interleave(8, 2).expand(LENGTH, -1, -1, -1)
        ramp = torch.arange(LENGTH)[:, None, None, None]
        path = root / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, (frames * (0.3 + 0.03 * ramp)).byte())
    return root


def stream(folder: Path, *, transform=None, workers: int = 0, repeats: int = 2, decode=None):
    return TrainStream(
        open_source(str(folder), "video"),
        np.arange(COUNT),
        transform or VideoTrainTransform(16),
        seed=3,
        global_batch_size=4,
        micro_batch_size=2,
        workers=workers,
        max_broken=0.3,
        decode=decode or ClipDecoder(4, 3, "dense"),
        repeats=repeats,
    )


def test_copies_lie_side_by_side_and_are_decoded_once(folder):
    calls = []
    decoder = ClipDecoder(4, 3, "dense")

    def decode(source, sample, rng):
        calls.append(sample)
        return decoder(source, sample, rng)

    batch = next(stream(folder, repeats=3, decode=decode).iterate(0, 1))
    assert batch.pixels.shape == (6, 3, 4, 16, 16)
    ids = batch.ids.tolist()
    assert ids == [ids[0]] * 3 + [ids[3]] * 3
    assert calls == [ids[0], ids[3]]
    assert batch.labels.tolist() == [sample // 4 for sample in ids]
    assert len(set(batch.seeds.tolist())) == 6
    assert batch.seeds[1] == copy_seed(int(batch.seeds[0]), 1)
    assert not torch.equal(batch.pixels[0], batch.pixels[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_shows_as_many_views_as_there_are_copies(folder, tmp_path, workers):
    def shown(views: int, epochs: int) -> dict[tuple[int, int], tuple[int, torch.Tensor]]:
        """Seed and pixels by sample and view."""
        data, found = stream(folder, workers=workers), {}
        cache = TeacherCache(tmp_path / "none", Layout((1,), "fp32"), views, COUNT, 2)
        cache.read = lambda _, ids: Found(torch.empty(len(ids), 4).byte(), np.zeros(len(ids), bool))
        data.use([cache])
        for batch in data.iterate(0, epochs * data.steps_per_epoch):
            rows = zip(batch.ids.tolist(), batch.cached.views.tolist(), strict=True)
            for row, key in enumerate(rows):
                one = int(batch.view_seeds[row]), batch.pixels[row]
                assert one[0] == cache.seeds(key[1], np.array(key[:1]))[0]
                before = found.setdefault(key, one)
                assert before[0] == one[0]
                assert torch.equal(before[1], one[1])
        data.close()
        return found

    many = shown(4, 3)
    assert {view for _, view in many} == {0, 1, 2, 3}
    sample = next(iter(many))[0]
    assert len({one[0] for key, one in many.items() if key[0] == sample}) == 4
    # One view alone, as it is compared with the teacher, has the frames of the first of its copies.
    cache = TeacherCache(tmp_path / "none", Layout((1,), "fp32"), 4, COUNT, 2)
    cache.read = lambda _, ids: Found(torch.empty(len(ids), 4).byte(), np.zeros(len(ids), bool))
    for view in range(4):
        batches = eval_batches(
            open_source(str(folder), "video"), np.arange(COUNT), VideoTrainTransform(16),
            batch_size=2, workers=0, broken=BrokenFiles(COUNT, 0.3),
            decode=ClipDecoder(4, 3, "dense"), cache=cache, view=view,
        )  # fmt: skip
        for batch in batches:
            for row, sample in enumerate(batch.ids.tolist()):
                if (sample, view) in many:
                    assert torch.equal(batch.pixels[row], many[sample, view][1])
                    assert int(batch.view_seeds[row]) == many[sample, view][0]


def test_workers_and_resuming_change_nothing(folder):
    whole = list(stream(folder).iterate(0, 4))
    resumed = stream(folder, workers=2)
    later = list(resumed.iterate(2, 4))
    resumed.close()
    for a, b in zip(whole[4:], later, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.seeds, b.seeds)


@pytest.mark.parametrize("crop", ["multi_scale", "resized"])
def test_crops_on_the_device_are_those_of_the_loader(folder, crop):
    transform = VideoTrainTransform(32, crop, flip=0.5)
    device = DeviceCrop(transform, torch.device("cpu"))
    for workers in (0, 1):
        here = stream(folder, transform=transform).iterate(0, 2)
        there = stream(folder, transform=device, workers=workers)
        for a, b in zip(here, there.iterate(0, 2), strict=True):
            assert torch.equal(a.seeds, b.seeds)
            assert a.pixels.stride() == b.pixels.stride()
            assert (a.pixels.int() - b.pixels.int()).abs().max() <= 1
        there.close()


def test_much_larger_frames_are_reduced_before_they_are_shipped(folder):
    device = DeviceCrop(VideoTrainTransform(8), torch.device("cpu"))
    batch = next(stream(folder, transform=device).iterate(0, 1))
    plain = next(stream(folder, transform=device.transform).iterate(0, 1))
    assert device.bounded(torch.zeros(3, 2, 48, 64, dtype=torch.uint8)).shape == (3, 2, 16, 21)
    assert (batch.pixels.float() - plain.pixels.float()).abs().mean() < 25


def test_views_of_a_test_clip_are_rows(folder):
    source = open_source(str(folder), "video")
    broken = BrokenFiles(COUNT, 1.0)
    batches = eval_batches(
        source,
        np.arange(5),
        VideoTestTransform(16, clips=2, crops=3),
        batch_size=2,
        workers=0,
        broken=broken,
        decode=ClipDecoder(4, 2, "dense", views=2),
    )
    found = list(batches)
    assert [len(batch) for batch in found] == [12, 12, 6]
    assert found[0].ids.tolist() == [0] * 6 + [1] * 6
    late, early = found[0].pixels[3:6].float().mean(), found[0].pixels[:3].float().mean()
    assert late > early  # the clips get brighter


def test_broken_clips_are_named_and_replaced(folder, tmp_path, caplog):
    (tmp_path / "clips").symlink_to(folder)
    (tmp_path / "clips2").mkdir()
    (tmp_path / "clips2" / "empty.mp4").write_bytes(b"")
    (tmp_path / "clips2" / "text.avi").write_text("no video")
    train = stream(tmp_path)
    train._reader.pool = np.arange(COUNT + 2)
    train._requests.indices = np.array([COUNT, 0, COUNT + 1, 1])
    batches = list(train.iterate(0, 1))
    assert [len(batch) for batch in batches] == [4, 4]
    assert set(train.broken.names) == {"clips2/empty.mp4", "clips2/text.avi"}
    assert "skipped a broken clip: clips2/text.avi (damaged or no video)" in caplog.text


def test_clips_that_are_all_too_short(folder, tmp_path):
    source = open_source(str(folder), "video")
    require_clips(source, ClipDecoder(5, 4, "dense"))
    require_clips(source, ClipDecoder(20, 4, "segments"))
    with pytest.raises(UserError, match=r"data.frames=6 with data.stride=4 needs 24 .* has 20"):
        require_clips(source, ClipDecoder(6, 4, "stretched"))
    with pytest.raises(UserError, match=r"data.frames=21 needs 21 frames, .* lower it"):
        require_clips(source, ClipDecoder(21, 4, "segments"))
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_text("no video")
    with pytest.raises(UserError, match="none of 3 clips tried in"):
        require_clips(open_source(str(tmp_path), "video"), ClipDecoder(1, 1, "dense"))
