"""Settings of runs on clips: what follows from them, and what is refused before any work."""

from pathlib import Path

import pytest
import torch

import vistill
from vistill.config.data import DataConfig
from vistill.config.loading import load_config
from vistill.config.overrides import parse_overrides
from vistill.data.motion_clips import write_video
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.transforms import VideoTestTransform, VideoTrainTransform
from vistill.errors import UserError
from vistill.runs.reading import open_samples

SMALL = ["student=vit", "student.embed_dim=24", "student.depth=2", "student.num_heads=2",
         "student.patch_size=8", "data.image_size=16", "train.global_batch_size=2",
         "train.epochs=1", "train.device=cpu", "optim.warmup_epochs=0"]  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(root / f"{number}.mp4", torch.full((10, 32, 48, 3), 40 * number).byte())
    return root


def test_clips_have_their_own_defaults():
    assert (
        DataConfig(frames=8).model_dump()
        == DataConfig(frames=8, crop="multi_scale", flip=0.0, interpolation="bilinear").model_dump()
    )
    assert DataConfig(frames=8, flip=0.5).flip == 0.5
    assert (DataConfig().crop, DataConfig().flip) == ("resized", 0.5)
    again = load_config("videomae", parse_overrides(["data.frames=8", "data.crop=resized"]))
    assert (again.data.crop, again.data.flip) == ("resized", 0.0)
    assert type(again).model_validate(again.model_dump()) == again


def test_settings_reach_the_reader(clips):
    reading = open_samples(
        DataConfig(train=str(clips), frames=4, stride=2, sampling="stretched", image_size=16)
    )
    assert reading.source.media.noun == "clip"
    assert reading.decode_train == ClipDecoder(4, 2, "stretched")
    assert reading.decode_test == ClipDecoder(4, 2, "stretched", views=1)
    assert isinstance(reading.train, VideoTrainTransform)
    assert (reading.train.crop, reading.train.flip, reading.train.size) == (
        "multi_scale",
        0,
        (16, 16),
    )
    assert isinstance(reading.test, VideoTestTransform)


@pytest.mark.parametrize(
    ("method", "words", "problem"),
    [
        ("videomae", ["data.frames=8"], "data.frames=8 with data.stride=4 needs 32 frames"),
        ("videomae", ["data.frames=12", "data.sampling=sparse"], "needs 12 frames, .* lower it"),
        (
            "videomae",
            ["data.frames=3", "data.stride=1"],
            "tubelet size 2; 2 or 4 would do",
        ),
        ("videomae", [], "data.frames=16"),
        ("mae", ["data.frames=4", "data.stride=2"], "use the method videomae"),
        ("mae", ["data.stride=2"], "^data.stride=2 is for clips"),
        ("mae", ["data.device_crop=true"], "^data.device_crop=true is for clips"),
        (
            "videomae",
            ["data.frames=4", "data.stride=2", "cache=there"],
            "has no teacher, so cache=there has no use",
        ),
        ("videomae", ["data.frames=4", "data.sampling=sparce"], "'sparse'"),
    ],
)
def test_mistakes(clips, tmp_path, method, words, problem):
    with pytest.raises(UserError, match=problem):
        vistill.pretrain(method, data=clips, out=tmp_path / "run", overrides=[*SMALL, *words])
    assert not (tmp_path / "run").exists()


def test_crops_on_the_device_train_alike(clips, tmp_path):
    losses = [
        vistill.pretrain(
            "videomae",
            data=clips,
            out=tmp_path / switch,
            overrides=[*SMALL, "data.frames=4", "data.stride=2", "data.repeats=2",
                       "data.held_out=0", "data.workers=0", "train.loggers=[]",
                       f"data.device_crop={switch}"],
        ).terms["loss"]
        for switch in ("true", "false")
    ]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
