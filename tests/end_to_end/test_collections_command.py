"""A published collection from its official annotation to a training step, by the command line."""

from pathlib import Path

import pytest
import torch
from command_line import run
from PIL import Image

from vistill.data.motion_clips import write_video

SIZES = ["student=vit", "student.embed_dim=24", "student.depth=1", "student.num_heads=2",
         "student.patch_size=8", "method.decoder.depth=1", "method.decoder.embed_dim=24",
         "method.decoder.num_heads=2", "data.image_size=16", "data.frames=4", "data.stride=1",
         "data.held_out=0.25", "train.global_batch_size=4", "train.epochs=1", "train.device=cpu",
         "optim.warmup_epochs=0", "data.workers=0"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["videos", "frames"])
def test_from_the_annotation_to_a_step(tmp_path: Path, kind: str) -> None:
    train = []
    for number in range(8):
        label = ("YoYo", "Archery")[number % 2]
        name = f"{label}/v_{label}_g{number:02}_c01"
        grey = torch.full((6, 24, 32, 3), 20 * number, dtype=torch.uint8)
        if kind == "videos":
            (tmp_path / "root" / label).mkdir(parents=True, exist_ok=True)
            write_video(tmp_path / "root" / f"{name}.avi", grey)
        else:
            (tmp_path / "root" / name).mkdir(parents=True)
            for place, frame in enumerate(grey.numpy(), 1):
                Image.fromarray(frame).save(tmp_path / "root" / name / f"img_{place:05}.jpg")
        train.append(f"{name}.avi {1 + number % 2}")
    (tmp_path / "trainlist01.txt").write_text("\n".join([*train, "YoYo/v_YoYo_g99_c01.avi 1"]))
    prepared = run(
        "prepare", "--format", "ucf101", "--annotations", tmp_path / "trainlist01.txt",
        "--root", tmp_path / "root", "--out", tmp_path / "index", "--workers", 0,
    )  # fmt: skip
    assert "8 clips of 6 to 6 frames" in prepared.stdout
    assert "1 of 9 clips have no file" in prepared.stdout
    index = tmp_path / "index" / "index.parquet"
    trained = run("pretrain", "videomae", "--data", index, "--out", tmp_path / "run", *SIZES)
    assert "8 clips, 2 classes, 2 held out" in trained.stdout
    assert "finished 1 steps" in trained.stdout
