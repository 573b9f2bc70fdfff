"""The whole evaluation on small videos whose class is the way a square moves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quietly import evaluated, settings

from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import LinearProbeConfig
from vistill.config.finetune import FineTuneConfig
from vistill.data import open_source
from vistill.data.motion_clips import write_video
from vistill.errors import UserError
from vistill.evaluation.features import collect
from vistill.evaluation.finetune import class_scores, fine_tune
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.saved_classifier import read_head
from vistill.evaluation.testing import score_classifier
from vistill.evaluation.trained import trained_classifier
from vistill.models.build import load_backbone
from vistill.models.vit import VisionTransformer
from vistill.training.distributed import alone

WAYS = {"down": (3, 0), "right": (0, 3), "still": (0, 0)}
CLIPS = ClipSettings(4, 2, "stretched", 2, 3)
QUIET = {"world": alone("cpu"), "workers": 0, "progress": False}


def write_videos(folder: Path, per_class: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, (down, right) in WAYS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            frames = rng.integers(0, 50, (10, 32, 40, 3), dtype=np.uint8)
            top, left = rng.integers(0, 6, 2)
            for t in range(10):
                y, x = (top + down * t) % 24, (left + right * t) % 32
                frames[t, y : y + 8, x : x + 8] = (230, 200, 40)
            write_video(folder / name / f"{number}.mp4", torch.from_numpy(frames), fps=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("clips")
    write_videos(root / "train", 8, 0)
    write_videos(root / "test", 4, 1)
    return str(root / "train"), str(root / "test")


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_frames=4,
        tubelet_size=2, class_token=False, qkv_bias="no_key",
    )  # fmt: skip


def sources(folders):
    return [open_source(folder, "video") for folder in folders]


QUICK = FineTuneConfig(
    epochs=1, min_steps=60, global_batch_size=12, lr=3e-3, flip=0.0, crop_scale=(0.8, 1.0),
    repeats=2, drop_path=0.0,
)  # fmt: skip


@pytest.mark.slow
def test_all_protocols_on_clips_with_a_broken_one(folders, vit, caplog):
    train, test = folders
    broken = Path(test) / "down" / "9.mp4"
    broken.write_bytes((Path(test) / "down" / "0.mp4").read_bytes()[:200])
    scores = evaluated(
        vit, *sources((train, test)), clips=CLIPS, linear=LinearProbeConfig(min_steps=50),
        finetune=QUICK, seeds=(0,),
    )  # fmt: skip
    broken.unlink()
    assert [score.protocol for score in scores] == ["knn", "linear", "finetune"]
    assert all(score.n_test == 12 and score.labels_used == 24 for score in scores)
    assert all(score.broken == ("down/9.mp4",) for score in scores)
    assert scores[-1].top1 > 0.6
    assert sum("9.mp4" in record.message for record in caplog.records) == 1


@pytest.mark.slow
def test_a_kept_model_is_tested_again(folders, vit, tmp_path):
    train, test = sources(folders)
    options = QUICK.model_copy(update={"min_steps": 8, "keep": str(tmp_path / "kept")})
    (score,) = evaluated(
        vit,
        train,
        test,
        clips=CLIPS,
        protocols=("finetune",),
        finetune=options,
        seeds=(3,),
    )
    folder = f"run:{tmp_path / 'kept' / 'labels-1-seed-3'}"
    kept, head = load_backbone(folder), read_head(folder)
    assert (head.classes, head.pool) == (["down", "right", "still"], "avg")
    settings_of_clips = json.loads((tmp_path / "kept/labels-1-seed-3/model.json").read_text())
    assert settings_of_clips["clips"] == CLIPS._asdict()
    trained = trained_classifier(kept, folder, frames=CLIPS.frames)
    again = score_classifier(trained, test, settings(), clips=CLIPS, progress=False)
    assert (again.top1, again.n_test) == (score.top1, 12)
    with pytest.raises(UserError, match="is there already"):
        evaluated(vit, train, test, clips=CLIPS, finetune=options)
    with pytest.raises(UserError, match="has no head: give"):
        read_head(f"run:{tmp_path}")
    test.classes = ["dwon", "right", "still"]
    with pytest.raises(UserError, match=r"does not know the class 'dwon' .* did you mean 'down'"):
        score_classifier(trained, test, settings(), clips=CLIPS, progress=False)


def test_views_of_a_video_are_averaged(folders, vit):
    (train, _) = sources(folders)
    classifier = fine_tune(
        vit, train, np.arange(24), num_classes=3, inputs=Inputs(32, CLIPS), seed=0,
        options=QUICK.model_copy(update={"min_steps": 4}), **QUIET,
    )  # fmt: skip

    def found(clips: ClipSettings) -> torch.Tensor:
        return collect(
            classifier, class_scores(classifier), train, np.array([20, 3]), batch_size=4,
            inputs=Inputs(32, clips), workers=0, device="cpu", progress=None,
        )  # fmt: skip

    merged = found(CLIPS)
    assert merged.ids.tolist() == [3, 20]
    assert merged.labels.tolist() == train.labels[[3, 20]].tolist()
    torch.testing.assert_close(merged.features.sum(dim=1), torch.ones(2, dtype=torch.float64))
    middle = found(CLIPS.middle)
    assert middle.ids.tolist() == [20, 3]
    assert not torch.allclose(middle.features.double().softmax(1).flip(0), merged.features)


def test_other_lengths_and_sizes(folders, vit):
    longer = CLIPS._replace(frames=6, stride=1, sampling="segments")
    (score,) = evaluated(
        vit,
        *sources(folders),
        clips=longer,
        image_size=16,
        protocols=("knn",),
    )
    assert score.n_test == 12
    with pytest.raises(UserError, match="frames=5, image_size=32 does not suit the backbone"):
        evaluated(vit, *sources(folders), clips=CLIPS._replace(frames=5))
    with pytest.raises(
        UserError, match=r"frames=4 with stride=10 needs 40 frames, and the longest .* has 10"
    ):
        evaluated(vit, *sources(folders), clips=CLIPS._replace(stride=10))
    pictures = VisionTransformer(image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    with pytest.raises(UserError, match="takes pictures"):
        evaluated(pictures, *sources(folders), clips=CLIPS)
