"""Clips from a folder to a trained and probed student, through the real command line."""

import json
from pathlib import Path

import pytest
import torch
from command_line import run

from vistill.data.motion_clips import write_video

SIZES = ["student.model=vit", "student.embed_dim=24", "student.depth=2", "student.num_heads=2",
         "student.patch_size=8", "method.decoder.depth=1", "method.decoder.embed_dim=24",
         "method.decoder.num_heads=2", "data.image_size=16", "data.stride=2", "data.held_out=0.25",
         "train.global_batch_size=4", "train.epochs=1", "train.device=cpu",
         "optim.warmup_epochs=0", "data.workers=1"]  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("film") / "clips"
    generator = torch.Generator().manual_seed(0)
    for number in range(16):
        still = torch.randint(0, 256, (1, 6, 8, 3), dtype=torch.uint8, generator=generator)
        path = root / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = still.repeat_interleave(6, 1).repeat_interleave(6, 2).expand(10, -1, -1, -1)
        write_video(path, frames)
    (root / "a" / "broken.mp4").write_bytes(b"")
    return root


@pytest.mark.slow
def test_pretrain_on_clips_and_on_their_index(clips, tmp_path):
    settings = ["data.frames=4", "data.repeats=2", "data.max_broken=0.2", *SIZES]
    told = run("pretrain", "videomae", "--data", clips, "--out", tmp_path / "run", *settings)
    assert "17 clips, 2 classes" in told.stdout
    assert "4 × 2 frames (dense), 2 crops of each" in told.stdout
    assert "clips/s" in told.stderr
    last = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert last[-1]["held_out_loss"] > 0
    assert 0 <= last[-1]["knn"] <= 100

    prepared = run("prepare", clips, "--out", tmp_path / "index", "--quick", "--workers", 1)
    assert "16 clips of 10 to 10 frames" in prepared.stdout
    assert "broken.mp4: " in prepared.stdout
    index = tmp_path / "index" / "index.parquet"
    dry = run(
        "pretrain", "videomae", "--data", index, "--out", tmp_path / "r2", "--dry-run", *settings
    )
    assert "16 clips" in dry.stdout


def test_a_mistake_is_one_sentence(clips, tmp_path):
    told = run(
        "pretrain", "videomae", "--data", clips, "--out", tmp_path / "run", "data.frames=8", *SIZES,
        expect=2,
    )  # fmt: skip
    assert "data.frames=8 with data.stride=2 needs 16 frames" in told.stderr
    assert told.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
