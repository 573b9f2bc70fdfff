"""`vistill prepare` never blames a video for what befell itself, and the other way round."""

import faulthandler
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import vistill
from vistill.cli import main
from vistill.data.motion_clips import write_video
from vistill.data.video import prepare as collection
from vistill.data.video.inspect import inspect
from vistill.errors import Failure, UserError
from vistill.locking import LOCK, FolderLock

NAMES = ["a.mp4", "b.mp4", "c.mp4"]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        ramp = torch.arange(6)[:, None, None, None] * 4 + number
        write_video(folder / name, ramp.expand(-1, 32, 48, 3).byte())
    return folder


def problems(out: Path) -> dict[str, str | None]:
    rows = pq.read_table(out / "index.parquet").to_pylist()
    return {row["source"]: row["problem"] for row in rows}


def journal(out: Path) -> list[str]:
    lines = (out / "files.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["key"] for line in lines)


def at(name: str, act: Any, patch: pytest.MonkeyPatch) -> None:
    """Let `act` happen where a worker looks at the video `name`."""

    def odd(place: Any, **options: Any) -> Any:
        if str(place).endswith(name):
            act()
        return inspect(place, **options)

    patch.setattr(collection, "inspect", odd)


def raising(error: Exception) -> Any:
    def act() -> None:
        raise error

    return act


def killing(signum: int) -> Any:
    def act() -> None:
        faulthandler.disable()
        os.kill(os.getpid(), signum)

    return act


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "out/x"), r"No space left on device \(out/x\)"),
        (PermissionError(13, "Permission denied", "out/x"), r"Permission denied \(out/x\)"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (TypeError("of ours"), "TypeError: of ours"),
    ],
)
def test_a_fault_of_its_own_stops_it(videos, tmp_path, monkeypatch, workers, error, text):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        at("b.mp4", raising(error), patch)
        with pytest.raises(Failure, match=f"stopped at b.mp4: {text}; what is done is kept"):
            vistill.prepare(videos, out=out, workers=workers)
    assert not (out / "index.parquet").exists()
    assert not (out / LOCK).exists()
    assert "b.mp4" not in journal(out)
    vistill.prepare(videos, out=out, workers=workers)
    assert problems(out) == dict.fromkeys(NAMES)


@pytest.mark.slow
def test_a_full_disk_ends_with_code_1_and_leaves_nothing_half_written(videos, tmp_path):
    noise = torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8)
    write_video(videos / "d.mp4", noise)
    out = tmp_path / "out"
    words = ["prepare", str(videos), "--out", str(out), "--transcode", "--workers", "1"]
    words += ["--quality", "0"]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        [sys.executable, "-m", "vistill.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert f"error: stopped at d.mp4: File too large ({out}/clips/d.mp4); what" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob(".partial-*"))
    assert not (out / "index.parquet").exists()
    assert "d.mp4" not in journal(out)
    assert main(words) == 0
    assert problems(out) == dict.fromkeys([*NAMES, "d.mp4"])


def test_two_at_once_in_one_folder(videos, tmp_path):
    out = tmp_path / "out"
    vistill.prepare(videos, out=out, workers=0)
    before = sorted(out.iterdir())
    child = os.fork()
    if child == 0:
        FolderLock.acquire(out)
        time.sleep(1000)
    try:
        while not (out / LOCK).exists() or not (out / LOCK).read_text():
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"is being written by process {child}"):
            vistill.prepare(videos, out=out, workers=0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    vistill.prepare(videos, out=out, workers=0)
    assert sorted(out.iterdir()) == before


def test_killed_for_want_of_memory_is_left_undone(videos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["prepare", str(videos), "--out", str(out), "--workers", "2"]
    with monkeypatch.context() as patch:
        at("b.mp4", killing(signal.SIGKILL), patch)
        assert main(words) == 1
    told = capsys.readouterr()
    assert "1 of 3 videos are left undone and not in the index (b.mp4: the process" in told.err
    assert "2 clips of 6 to 6 frames" in told.out
    assert problems(out) == {"a.mp4": None, "c.mp4": None}
    assert main(words) == 0
    assert problems(out) == dict.fromkeys(NAMES)


def test_a_video_that_crashes_the_decoder_is_named(videos, tmp_path, monkeypatch):
    at("b.mp4", killing(signal.SIGSEGV), monkeypatch)
    result = vistill.prepare(videos, out=tmp_path / "out", workers=2)
    assert result.problems == {"b.mp4": "crashes the decoder (SIGSEGV)"}
    assert problems(tmp_path / "out")["b.mp4"] == "crashes the decoder (SIGSEGV)"


@pytest.mark.slow
def test_a_video_that_hangs_is_named_and_tried_again_with_more_time(videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        at("b.mp4", lambda: time.sleep(1000), patch)
        result = vistill.prepare(videos, out=out, workers=2, timeout=1.5)
        assert result.problems == {"b.mp4": "not read within 2 s"}
    assert vistill.prepare(videos, out=out, workers=2, timeout=1.5).problems  # known
    assert vistill.prepare(videos, out=out, workers=2, timeout=100).problems == {}


@pytest.mark.parametrize("error", [IndexError("of PyAV"), ValueError("odd header")])
def test_what_pyav_raises_at_damaged_bytes_is_the_videos(videos, tmp_path, monkeypatch, error):
    at("b.mp4", raising(error), monkeypatch)
    result = vistill.prepare(videos, out=tmp_path / "out", workers=0)
    told = f"cannot be read: {type(error).__name__}: {error}"
    assert result.problems == {"b.mp4": told}


CODECS = {
    "mp4": ("libx264", {"g": "15"}),
    "mov": ("libx265", {"g": "15", "x265-params": "log-level=none"}),
    "webm": ("libvpx-vp9", {"g": "15", "cpu-used": "8", "deadline": "realtime"}),
    "avi": ("mpeg4", {"g": "15"}),
}


def damaged(path: Path) -> None:
    """A video of noise that moves, in whose middle blocks are zero, as in a torn download."""
    kind = path.suffix[1:]
    codec, options = CODECS[kind]
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (16, 20, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = base.shape[:2]
        for number in range(60):
            moved = np.roll(base, (3 * number, 5 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(buffer.getvalue())
    for place in range(len(content) // 5, len(content) * 4 // 5, 1500):
        content[place : place + 300] = bytes(300)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", CODECS)
def test_a_half_damaged_video_has_a_problem_above_a_share(videos, tmp_path, kind):
    half = f"half.{kind}"
    damaged(videos / half)
    told = vistill.prepare(videos, out=tmp_path / "out", workers=0)
    assert list(told.problems) == [half]
    assert re.search(r"\d+ of \d+ frames", told.problems[half])
    lenient = vistill.prepare(videos, out=tmp_path / "other", max_damaged=1.0, workers=0)
    assert lenient.problems == {}
    assert list(lenient.damaged) == [half]
    assert 0.1 < lenient.damaged[half] <= 1
    line = "1 of them have damaged frames (column 'corrupt'), {} the most, {:.1%}"
    assert line.format(half, lenient.damaged[half]) in str(lenient)


def test_a_named_pipe_in_a_list_is_named(videos, tmp_path):
    os.mkfifo(videos / "pipe.mp4")
    (tmp_path / "list.txt").write_text("videos/a.mp4\nvideos/pipe.mp4\n")
    result = vistill.prepare(tmp_path / "list.txt", out=tmp_path / "out", workers=1)
    assert result.problems == {"videos/pipe.mp4": "is no regular file"}
