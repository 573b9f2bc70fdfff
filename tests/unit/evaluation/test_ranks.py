"""Every evaluator gives on two ranks the table of one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quietly import settings
from ranks import session
from squares import NAMES, coco, paint, squares

from vistill.config.boxes import BoxesConfig
from vistill.config.clip_recipes import ClipSettings
from vistill.config.detection import DetectionConfig
from vistill.config.evaluation import EvaluateConfig, LinearProbeConfig
from vistill.config.finetune import FineTuneConfig
from vistill.config.segmentation import SegmentationConfig
from vistill.data import open_source
from vistill.data.motion_clips import write_video
from vistill.errors import UserError
from vistill.evaluation.boxes import find
from vistill.evaluation.boxes.annotations import find_boxed
from vistill.evaluation.boxes.find import evaluate_boxes
from vistill.evaluation.detection.dataset import open_detection
from vistill.evaluation.detection.detect import evaluate_detection
from vistill.evaluation.evaluate import evaluate_backbone
from vistill.evaluation.features import shared_out
from vistill.evaluation.finetune import length_of
from vistill.evaluation.segmentation.layouts import PairSource, find_pairs
from vistill.evaluation.segmentation.segment import evaluate_segmentation
from vistill.models.vit import VisionTransformer
from vistill.training.distributed import World, connect

CPU = torch.device("cpu")
TUNE = FineTuneConfig(
    epochs=2, min_steps=0, global_batch_size=6, lr=1e-2, head_init="uniform", drop_path=0.1
)
BOXES = BoxesConfig(
    epochs=1, min_steps=0, global_batch_size=2, lr=1e-3, channels=16, regions=16, least_score=0.0
)
SEGMENT = SegmentationConfig(
    channels=8, epochs=2, min_steps=0, global_batch_size=4, lr=3e-3, classes=("grey", *NAMES)
)
DETECT = DetectionConfig(epochs=2, min_steps=0, global_batch_size=2, lr=1e-3)


def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 7), ("test", 5)):
        for name, tint in (("blue", 2), ("red", 0)):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 200, (16, 16, 3))
                noise[..., tint] += 30
                Image.fromarray(noise.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    (folder / "test" / "red" / "broken.png").write_bytes(b"no picture")


def masks(folder: Path) -> None:
    for part, count in (("train", 8), ("val", 3)):
        for number, picture in enumerate(squares(count)):
            paint(picture, folder / part / f"{number}.png")
            values = np.zeros(picture[0], np.uint8)
            for kind, (x0, y0, x1, y1) in picture[1]:
                values[y0:y1, x0:x1] = kind + 1
            (folder / f"{part}annot").mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / f"{part}annot" / f"{number}.png")


def films(folder: Path) -> None:
    (folder / "videos").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for part, count in (("train", 4), ("val", 3)):
        rows = []
        for i in range(count):
            frames = torch.from_numpy(rng.integers(0, 255, (8, 24, 32, 3), dtype=np.uint8))
            write_video(folder / "videos" / f"{part}{i}.mp4", frames, fps=8)
            rows += [f"{part}{i},0.5,0,0,0.5,1,1,0", f"{part}{i},0.5,0.4,0,1,0.9,2,1"]
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")


def vit(**given) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, **given
    ).eval()


def tables(root: Path, out: Path) -> int:
    """All tables of this rank, in its file."""
    world = connect("cpu", "device")
    config = settings(
        batch_size=4,
        budgets=(1.0, "4/class"),
        linear=LinearProbeConfig(min_steps=20, base_lrs=(0.1, 1.0)),
        finetune=TUNE,
    )
    parts = [open_source(str(root / "pictures" / part)) for part in ("train", "test")]
    scores = evaluate_backbone(vit(), *parts, config, progress=False, world=world)
    found = [
        [one.protocol, one.budget, one.top1, one.mean_per_class, one.n_test, one.broken]
        for one in scores
    ]
    clips = EvaluateConfig(device="cpu", workers=0, detection=DETECT)
    of_clips = vit(num_frames=4, tubelet_size=2, class_token=False, qkv_bias="no_key")
    lists = open_detection(root / "films", DETECT)
    how = ClipSettings(4, 1, "stretched", 1, 1)
    for one in evaluate_detection(of_clips, lists, clips, how, progress=False, world=world):
        found.append([dict(one.precisions), one.key_frames])
    config = EvaluateConfig(device="cpu", workers=0, segmentation=SEGMENT)
    pairs = [find_pairs(root / "masks", SEGMENT, test=test) for test in (False, True)]
    parts = [(PairSource("masks", some.pictures), some) for some in pairs]
    for few in evaluate_segmentation(vit(), *parts, config, progress=False, world=world):
        found.append([few.mean_iou, few.pixel_accuracy, few.mean_accuracy])
    boxed = [
        (PairSource("squares", part.pictures), part) for part in find_boxed(root / "squares", BOXES)
    ]
    config = EvaluateConfig(device="cpu", workers=0, boxes=BOXES)
    with pytest.MonkeyPatch.context() as patch:
        # So little is learned that precision tells nothing; what is found does.
        patch.setattr(find, "precision_of", lambda seen, *_: [one.scores.tolist() for one in seen])
        for two in evaluate_boxes(vit(), boxed[0], boxed[1], config, progress=False, world=world):
            found.append([two.boxes, two.pictures, two.train_pictures])
    (out / f"{world.rank}.json").write_text(json.dumps(found, default=str))
    return 0


@pytest.mark.slow
def test_two_ranks_give_the_table_of_one(tmp_path):
    pictures(tmp_path / "pictures")
    films(tmp_path / "films")
    for part, count in (("train", 4), ("val", 3)):
        coco(tmp_path / "squares" / f"{part}.json", tmp_path / "squares" / "images", squares(count))
    masks(tmp_path / "masks")
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"ranks{ranks}"
        out.mkdir()
        done = session([out], ranks, lambda out=out: tables(tmp_path, out))
        assert done.returncode == 0, done.stderr
        found += [json.loads((out / f"{rank}.json").read_text()) for rank in range(ranks)]
    one, first, second = found
    assert first == second
    (scores, *counts), (other, *other_counts) = one.pop(), first.pop()
    assert counts == other_counts == [3, 4]
    for some, same in zip(scores, other, strict=True):
        assert len(some) == len(same) > 5
        assert same == pytest.approx(some, abs=1e-5)
    ious, other_ious = one.pop(), first.pop()
    assert np.allclose(ious, other_ious, atol=0.1)
    assert [row[:1] for row in one[:-1]] == [["knn"]] * 2 + [["linear"]] * 2 + [["finetune"]] * 2
    assert first[:-1] == one[:-1]
    assert one[0][4:] == [10, ["red/broken.png"]]
    assert first[-1][0] == pytest.approx(one[-1][0], abs=1e-6)
    assert first[-1][1] == one[-1][1] == 3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 23])
def test_ranks_share_whole_batches_in_order(count, size):
    shares = [shared_out(np.arange(count), 4, World(rank, size, CPU)) for rank in range(size)]
    assert np.concatenate(shares).tolist() == list(range(count))
    assert all(share[0] % 4 == 0 for share in shares if len(share))


@pytest.mark.parametrize(
    ("samples", "batch", "ranks", "message"),
    [
        (30, 15, 2, "finetune.global_batch_size=15 cannot be shared by 2 ranks; 14 would do"),
        (45, 64, 2, "global_batch_size=45, as there are 45 pictures, .* 2 ranks; 44 would do"),
        (3, 64, 4, "4 ranks are more than the 3 pictures to learn from"),
        (30, 2, 4, "finetune.global_batch_size=2 cannot be shared by 4 ranks; 4 would do"),
    ],
)
def test_batches_that_ranks_cannot_share(samples, batch, ranks, message):
    options = FineTuneConfig(global_batch_size=batch)
    with pytest.raises(UserError, match=message):
        length_of(options, samples, "picture", World(0, ranks, CPU))
    assert length_of(options, samples, "picture", World(0, 1, CPU)).batch == min(batch, samples)
