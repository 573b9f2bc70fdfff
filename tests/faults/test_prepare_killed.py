"""`vistill prepare` that is killed again and again ends with what an undisturbed one writes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from vistill.data.motion_clips import write_video
from vistill.data.video.reader import VideoReader

COUNT = 24


def start(videos: Path, out: Path) -> subprocess.Popen:
    words = ["prepare", str(videos), "--out", str(out), "--transcode", "--short-side", "48"]
    return subprocess.Popen(
        [sys.executable, "-m", "vistill.cli", *words, "--shards", "1", "--workers", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(out: Path) -> int:
    journal = out / "files.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_kill_and_continue(tmp_path):
    videos = tmp_path / "videos"
    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        noise = torch.randint(0, 256, (8, 16, 20, 3), dtype=torch.uint8, generator=generator)
        path = videos / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, noise.repeat_interleave(6, 1).repeat_interleave(6, 2))
    out, chance = tmp_path / "out", random.Random(0)
    for _ in range(2):
        process, before = start(videos, out), lines(out)
        while process.poll() is None and lines(out) < min(COUNT, before + chance.randint(2, 8)):
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert lines(out) > 0
    process = start(videos, out)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    rows = pq.read_table(out / "index.parquet").to_pylist()
    assert len(rows) == COUNT
    assert not any(row["problem"] for row in rows)
    assert not list(out.rglob(".partial-*"))
    assert not (out / "clips").exists()
    for row in rows:
        shard = (out / row["shard"]).read_bytes()
        with VideoReader(shard[row["offset"] : row["offset"] + row["size"]]) as video:
            assert video.read(range(8)).shape[:2] == (3, 8)
