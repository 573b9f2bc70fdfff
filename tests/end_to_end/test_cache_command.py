"""`vistill pretrain kdep ... cache=DIR`: killed, continued, shared by another student."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command_line import CELLS, TORCHRUN, command, environment, run, start
from safetensors.torch import load_file

SETTINGS = [
    "data.image_size=32",
    "data.workers=1",
    "data.held_out=0.2",
    "train.global_batch_size=22",
    "train.micro_batch_size=11",
    "train.device=cpu",
    "train.epochs=6",
    "train.checkpoint_steps=1",
    "method.wider=pad",
    "optim.lr=0.01",
    "cache.views=3",
]


def kdep(out: Path, cache: Path, *words: str, student: str = "timm/test_vit") -> list[object]:
    return [
        *("pretrain", "kdep_resnet18", "--data", CELLS / "train", "--out", out, *SETTINGS),
        *("--teacher", "timm/resnet10t", "--teacher-weights", "random", "--student", student),
        *(f"cache={cache}", *words),
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "last" / "model.safetensors")


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["held_out_loss"] for line in lines if "held_out_loss" in line]


@pytest.mark.slow
def test_a_cache_survives_a_kill_and_serves_others(tmp_path: Path) -> None:
    whole, half, cache = tmp_path / "whole", tmp_path / "half", tmp_path / "c"
    done = run(*kdep(whole, cache))
    line = "0 of 71 records, 2048 bytes each in fp32, 6144 per picture with 3 views"
    assert f"cache    {cache}: {line}" in done.stdout
    written = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert written["written-0.bin"].count(1) == written["written-2.bin"].count(1) == 22
    assert written["written-test.bin"].count(1) == 5

    process = start(*kdep(half, tmp_path / "c2"))
    metrics = half / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    run(*kdep(half, tmp_path / "c2"))
    assert (tmp_path / "c2" / "written-0.bin").read_bytes().count(1) == 22
    ours, theirs = weights(half), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    # The records of a run serve another student, and say so.
    done = run(*kdep(tmp_path / "other", cache, student="timm/regnetx_002"))
    assert "71 of 71 records" in done.stdout
    assert "off the teacher by" in done.stdout
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == written


@pytest.mark.slow
def test_two_ranks_write_one_cache(tmp_path: Path) -> None:
    words = command(*kdep(tmp_path / "two", tmp_path / "c"))
    done = subprocess.run(
        [*TORCHRUN, *words[1:]], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("0 of 71 records") == 1
    marks = [(tmp_path / "c" / f"written-{v}.bin").read_bytes().count(1) for v in (0, 1, 2, "test")]
    assert marks == [22, 22, 22, 5]
    done = run(*kdep(tmp_path / "one", tmp_path / "c"))
    assert "71 of 71 records" in done.stdout
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=0.02)
