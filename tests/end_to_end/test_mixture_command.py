"""Pictures and clips in one run, by a method of one's own: killed, resumed, shared by two ranks."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, kill_at_checkpoint, run
from safetensors.torch import load_file

VIDEOS = Path(__file__).parents[1] / "data" / "videos"
METHOD = '''
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from vistill.methods.base import Method, weighted


class Colours(Method):
    """Finds a sample's mean colour among those of the batch; clips go through a map more."""

    def __init__(self, student):
        super().__init__(student)
        self.norm = self.ours.tap("norm")
        width = student.width
        self.colour, self.clip = nn.Linear(3, width), nn.Linear(width, width)

    def forward(self, batch):
        pixels, clips = batch.unit_pixels(), batch.pixels.dim() == 5
        assert batch.inputs["source"].unique().tolist() == [int(clips)]
        assert batch.inputs["item"].shape == batch.ids.shape
        if not clips:
            frames = self.student.num_frames
            batch = replace(batch, pixels=pixels[:, :, None].expand(-1, -1, frames, -1, -1))
        seen = self.ours.see(batch, [self.norm])[self.norm].mean(dim=1)
        seen = self.ranks.gather(normalize(self.clip(seen) if clips else seen, dim=1), "full")
        there = self.ranks.gather(normalize(self.colour(pixels.flatten(2).mean(2)), dim=1), "full")
        return weighted({"nce": (1.0, cross_entropy(9 * seen @ there.mT, torch.arange(len(seen))))})


def build(given):
    return Colours(given.student)
'''


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    (tmp_path / "colours.py").write_text(METHOD)
    pictures, clips = tmp_path / "pictures", tmp_path / "clips"
    shutil.copytree(CELLS / "train", pictures)
    clips.mkdir()
    for path in sorted(VIDEOS.glob("decord_video_*.mov"))[:2]:
        for copy in range(4):
            shutil.copy(path, clips / f"{copy}-{path.name}")
    (pictures / "red" / "half.jpg").write_bytes(b"nothing")
    return [
        "pretrain", "custom", f"method.builder={tmp_path / 'colours.py'}:build",
        f"data.sources.cells={pictures}", f"data.sources.films.train={clips}",
        "data.sources.films.frames=2", "data.sources.films.stride=1",
        "data.sources.films.weight=2", "data.max_broken=0.5",
        "student.model=vit", *(word.replace("batch_size=8", "batch_size=4") for word in SIZES),
        "optim.lr=3e-3",
    ]  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "export" / "last" / "model.safetensors")


@pytest.mark.slow
def test_it_is_described_learns_and_continues_after_a_kill(words, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    dry = run(*words, "--out", whole, "--dry-run").stdout
    assert re.search(
        r"cells: /\S+: 28 pictures, 6 held out, 1 × an epoch: 5 of its 7 steps\n"
        r"data     films: /\S+: 8 clips, 2 × 1 frames \(dense\), 2 held out, 2 × an epoch: 2 of",
        dry,
    )
    assert "no kNN probe: a mixture of sources has no classes of its own" in dry
    assert not whole.exists()

    words = [*words, "train.epochs=4", "train.evaluate_every=2", "train.checkpoint_steps=1"]
    done = run(*words, "--out", whole)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(held_out) == 2
    assert list(json.loads((whole / "broken_samples.json").read_text())) == ["cells: red/half.jpg"]
    assert "skipped a broken sample: cells: red/half.jpg" in done.stdout + done.stderr

    stopped = tmp_path / "stopped"
    kill_at_checkpoint(stopped, *words, "--out", stopped, checkpoints=2)
    again = run(*words, "--out", stopped)
    assert re.search(r"resuming after step \d+ of 28", again.stdout + again.stderr)
    ours, theirs = weights(stopped), weights(whole)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    words = [word for word in words if word != "data.sources.films.weight=2"]
    other = run(*words, "--out", stopped, expect=2)
    assert "data.sources.films.weight: 2.0 → 1.0" in other.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method=tinymim", "--teacher", "timm/vit_tiny_patch16_224:x"], "pictures (cells) and"),
        (["data.sources.films=/no/where"], "data.sources.films: '/no/where' does not exist"),
        (["--data", "x"], "data has train=x beside sources"),
        (
            ["train.global_batch_size=12"],
            "data.sources.films: train.global_batch_size=12 is larger",
        ),
    ],
)
def test_mistakes(words, tmp_path: Path, changes: list[str], message: str) -> None:
    said = {word.partition("=")[0] for word in changes}
    said |= {"data.sources.films.train"} if "data.sources.films" in said else set()
    if "method" in said:
        words = [words[0], *words[3:]]
    kept = [word for word in words if str(word).partition("=")[0] not in said]
    done = run(*kept, *changes, "--out", tmp_path / "out", expect=2)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
