"""A detector on small videos in which a square either stands still or moves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistill.config.clip_recipes import ClipSettings
from vistill.config.detection import DetectionConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.data.broken import BrokenFiles
from vistill.data.motion_clips import write_video
from vistill.data.video.reader import VideoReader
from vistill.errors import UserError
from vistill.evaluation.boxed import BoxedStream
from vistill.evaluation.detection.clips import KeyFrameReader, View
from vistill.evaluation.detection.dataset import open_detection
from vistill.evaluation.detection.detect import evaluate_detection
from vistill.models.vit import VisionTransformer

HEIGHT, WIDTH, FRAMES, SIDE = 48, 64, 24, 20
STANDS, MOVES = 1, 3


def film(path: Path, rng: np.random.Generator) -> list[str]:
    """Two squares, one of them moving up and down; the rows of its key frame at 1 s."""
    moving = int(rng.integers(2))
    lefts = (4, 38)
    frames = rng.integers(0, 40, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    tops = np.full((FRAMES, 2), int(rng.integers(4, 20)))
    tops[:, moving] = 13 + np.round(11 * np.sin(np.arange(FRAMES) * 1.3))
    for number in range(FRAMES):
        for square in range(2):
            rows = slice(tops[number, square], tops[number, square] + SIDE)
            frames[number, rows, lefts[square] : lefts[square] + SIDE] = (200, 120, 60)
    write_video(path, torch.from_numpy(frames), fps=12)
    rows = []
    for square in range(2):
        top, left = tops[12, square], lefts[square]
        box = np.array([left / WIDTH, top / HEIGHT, (left + SIDE) / WIDTH, (top + SIDE) / HEIGHT])
        action = MOVES if square == moving else STANDS
        where = ",".join(f"{value:.4f}" for value in box)
        rows.append(f"{path.stem},1,{where},{action},{square}")
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ava")
    (root / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 24), ("val", 10)):
        rows = [row for i in range(count) for row in film(root / "videos" / f"{name}{i}.mp4", rng)]
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_frames=4,
        tubelet_size=2, class_token=False, qkv_bias="no_key",
    )  # fmt: skip


EVERY_FRAME = ClipSettings(4, 1, "stretched", 1, 1)


def detected(vit, data, options, seeds=(0,)):
    config = EvaluateConfig(device="cpu", workers=0, seeds=seeds, detection=options)
    return evaluate_detection(vit, data, config, EVERY_FRAME, progress=False)


@pytest.mark.slow
def test_training_beats_a_detector_that_knows_nothing(folder, vit):
    options = DetectionConfig(epochs=1, min_steps=90, global_batch_size=8, lr=4e-3, drop_path=0.0)
    data = open_detection(folder, options)
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    (score,) = detected(vit, data, options)
    assert (score.key_frames, score.people, score.boxes) == (10, 20, "true")
    assert set(score.precisions) == {"1", "3"}
    assert score.mean_precision > 0.8
    idle = DetectionConfig(epochs=1, min_steps=0, global_batch_size=24, lr=1e-12)
    (untaught,) = detected(vit, data, idle)
    assert untaught.mean_precision < score.mean_precision - 0.1
    assert all(torch.equal(before[k], v) for k, v in vit.state_dict().items())


def test_detected_people_exclusions_and_broken_videos(folder, vit, caplog):
    rows = []
    for number, line in enumerate((folder / "val.csv").read_text().splitlines()):
        cells = line.split(",")
        rows.append(",".join([*cells[:6], "", "0.5" if number == 3 else "0.9"]))
    (folder / "people.csv").write_text("\n".join(rows))
    (folder / "without.csv").write_text("val0,1\n")
    (folder / "actions.csv").write_text("3,move\n")
    whole = (folder / "videos" / "val4.mp4").read_bytes()
    (folder / "videos" / "val4.mp4").write_bytes(whole[:300])
    options = DetectionConfig(
        epochs=1, min_steps=0, global_batch_size=24, detections="people.csv",
        excluded="without.csv", actions="actions.csv",
    )  # fmt: skip
    data = open_detection(folder, options)
    assert (len(data.truth), len(data.asked), data.num_actions) == (9, 9, 3)
    scores = detected(vit, data, options, seeds=(0, 1))
    (folder / "videos" / "val4.mp4").write_bytes(whole)
    assert [set(score.precisions) for score in scores] == [{"move"}] * 2
    assert scores[0].broken == ("val4 at 1 s",)
    assert (scores[0].key_frames, scores[0].boxes) == (8, "detected")
    assert sum("val4" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24), (32, 72)])
def test_crops_move_the_boxes_with_the_pixels(folder, size):
    data = open_detection(folder, DetectionConfig())
    view = View(4, 1, 48, size, False, 8, 1.0)
    reader = KeyFrameReader(data.train, data.files, 0.0, 3, view, 0, replace=True)
    for number in range(6):
        clip, boxes, kept = reader._cut(data.train[number], np.random.default_rng(number))
        assert clip.shape == (3, 4, *size)
        assert len(boxes) == int(kept.sum()) <= 2
        key = clip[0, 2].float()
        for x0, y0, x1, y1 in boxes.round().int().tolist():
            if min(x1 - x0, y1 - y0) > 3:
                assert key[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].mean() > 170
    view = view._replace(whole=True, short_side=44)
    if size[1] > 59:  # frames are enlarged until they cover the crop
        view = view._replace(size=(32, 32))
    whole = KeyFrameReader(data.train, data.files, 0.0, 3, view, 0, replace=False)
    clip, boxes, _ = whole._cut(data.train[0], np.random.default_rng(0))
    assert clip.shape == (3, 4, 48, 64)  # 44 × 59 in whole patches
    assert boxes.max() <= 59


def test_batches_do_not_depend_on_the_number_of_workers(folder):
    data = open_detection(folder, DetectionConfig())
    view = View(4, 1, 48, (32, 32), False, 8, 0.5)
    reader = KeyFrameReader(data.train, data.files, 0.0, 3, view, 7, replace=True)
    batches = []
    for workers in (0, 2):
        stream = BoxedStream(reader, global_batch_size=6, micro_batch_size=3, workers=workers,
                                broken=BrokenFiles(24, 0.5))  # fmt: skip
        batches.append(list(stream.iterate(3, 5)))
        stream.close()
    assert [len(part) for part in batches] == [4, 4]
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.boxes, theirs.boxes)
        two = ours.first(2)
        assert len(two.boxes) == len(two.actions) == int((ours.boxes[:, 0] < 2).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "trian.csv"}, "trian.csv does not exist; name it with detection.train=PATH"),
        ({"actions": "bad.csv"}, "none of the actions in .*val.csv is to be tested"),
        ({"videos": "."}, "no video file 'train0'"),
    ],
)
def test_mistakes_are_told_before_any_work(folder, options, message):
    (folder / "bad.csv").write_text("7,swim\n")
    with pytest.raises(UserError, match=message):
        open_detection(folder, DetectionConfig(**options))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({}, "needs a backbone of clips"),
        (
            {"num_frames": 4, "tubelet_size": 2, "class_token": False, "position": "learned"},
            "needs vistill's own ViT of clips",
        ),
    ],
)
def test_another_backbone_is_refused(folder, kind, why):
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    data = open_detection(folder, DetectionConfig())
    with pytest.raises(UserError, match=why):
        detected(VisionTransformer(**sizes, **kind), data, DetectionConfig())


def test_odd_rows_and_missing_videos_do_not_end_an_evaluation(folder, vit, tmp_path):
    """The frames of one video are a folder, one video is missing, and the lists have odd rows."""
    (tmp_path / "videos").mkdir()
    for path in (folder / "videos").iterdir():
        (tmp_path / "videos" / path.name).symlink_to(path)
    (tmp_path / "videos" / "val1.txt").write_text("no video")
    (tmp_path / "videos" / "val0.mp4").unlink()
    (tmp_path / "videos" / "val2.mp4").unlink()
    with VideoReader(str(folder / "videos" / "val2.mp4")) as video:
        frames = video.read(range(FRAMES)).movedim(0, -1).numpy()
    (tmp_path / "videos" / "val2").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "videos" / "val2" / f"val2_{number + 1:06}.png")
    train, val = ((folder / f"{name}.csv").read_text() for name in ("train", "val"))
    (tmp_path / "train.csv").write_text(f"{train}train0,1,0.2,0.2,0.2,0.4,1,0\ntrain1,1,,,,,,\n")
    (tmp_path / "val.csv").write_text(f"{val}val3,1,-0.001,0.2,0.3,0.4,1,7\nval4,2\n")
    options = DetectionConfig(epochs=1, min_steps=0, global_batch_size=24, fps=12)
    data = open_detection(tmp_path, options)
    assert list(data.notes) == [
        "train.csv: 1 × left out, a box without area (line 49); "
        "1 × left out, a key frame without people (line 50)",
        "val.csv: 1 × box cut to the picture (line 21); "
        "1 × left out, a key frame without people (line 22)",
        "1 of 34 videos of the lists are not in videos, and their 1 key frames are left out: val0",
    ]
    (score,) = detected(vit, data, options)
    assert (score.key_frames, score.people, score.broken) == (9, 19, ())
