"""`vistill evaluate --protocols retrieval`: captions and what they describe find each other."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CELLS
from tiny_clip import write_tiny_clip

from vistill.cli import main
from vistill.data import EvalTransform, decode_image
from vistill.data.motion_clips import write_motion_clips
from vistill.data.opening import open_source
from vistill.models.joint import load_joint

QUICK = ["device=cpu", "workers=0"]
TEXTS = ["a red cell", "a dog", "a blue cell", "a photo of a dog", "red", "blue dog photo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf/{write_tiny_clip(tmp_path_factory.mktemp('models') / 'clip')}"


def listed(folder: Path, out: Path, *, per_line: bool) -> Path:
    """A list of the samples below a folder, each with one or two captions."""
    media = "video" if any(folder.rglob("*.mp4")) else "image"
    source = open_source(str(folder), media)  # type: ignore[arg-type]
    rows = [
        {media: str(source.place(i)), "caption": text if per_line else captions_of(i)}
        for i in range(len(source))
        for text in (captions_of(i) if per_line else [""])
    ]
    if per_line:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [media, "caption"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        out.write_text(json.dumps(rows))
    return out


def captions_of(i: int) -> list[str]:
    return TEXTS[i % 6 : i % 6 + 1 + i % 2]


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    found = main(["evaluate", *map(str, words)])
    told = capsys.readouterr()
    assert found == code, told.err
    return told.err if code else told.out


def ranks_by_hand(model: str, paths: Sequence[Path]) -> tuple[list[int], list[int]]:
    joint = load_joint(model)
    assert joint is not None
    captions = [captions_of(i) for i in range(len(paths))]
    with torch.no_grad():
        pixels = torch.stack([EvalTransform(32)(decode_image(p.read_bytes())) for p in paths])
        seen = joint.see(joint.normalization(pixels.float() / 255))
        read = joint.read([text for several in captions for text in several])
    sims = torch.cosine_similarity(seen[:, None], read[None], dim=2).numpy()
    owner = np.array([i for i, several in enumerate(captions) for _ in several])
    texts = [1 + int((sims[:, t] >= sims[owner[t], t]).sum() - 1) for t in range(len(owner))]
    media = []
    for i in range(len(paths)):
        best = sims[i][owner == i].max()
        media.append(1 + int((sims[i][owner != i] >= best).sum()))
    return texts, media


def test_both_directions(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    data = listed(CELLS / "test", tmp_path / "captions.csv", per_line=True)
    words = (model, "--data", data, "--protocols", "retrieval", "--out", out, *QUICK)
    told = said(capsys, *words)
    found = json.loads(out.read_text())
    (score,) = found["retrieval"]
    assert score["ranking"] == "embeddings"
    source = open_source(str(CELLS / "test"))
    texts, media = ranks_by_hand(model, [Path(str(source.place(i))) for i in range(len(source))])
    for direction, ranks in (("text_to_media", texts), ("media_to_text", media)):
        for k in (1, 5, 10):
            expected = 100 * np.mean(np.array(ranks) <= k)
            assert score[direction][f"r{k}"][0] == pytest.approx(expected)
        assert score[direction]["median_rank"][0] == np.median(ranks)
        assert score[direction]["mean_rank"][0] == pytest.approx(np.mean(ranks))
    lines = told.splitlines()
    assert lines[1].split()[:2] == ["text", "embeddings"]
    assert lines[2].split()[:2] == ["picture", "embeddings"]
    assert "by chance R@1 would be" in lines[3]


def test_clips_frame_by_frame(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    write_motion_clips(open_source(str(CELLS / "test")), clips, count=4, frames=12, size=32)
    (clips / "broken.mp4").write_bytes(b"no video")
    data = listed(clips, tmp_path / "captions.json", per_line=False)
    words = (model, "--data", data, "--protocols", "retrieval", "frames=3", *QUICK)
    told = said(capsys, *words)
    assert "4 clips; by chance R@1 would be 25 %" in told
    assert "left out, since unreadable: 1: " in told
    joined = said(capsys, *words, "retrieval.captions=joined")
    assert "4 texts, 4 clips" in joined


def test_what_cannot_be_done_is_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", CELLS / "test", "--protocols")
    for words, told in {
        (model, *data, "retrieval", *QUICK): "needs captions, and",
        ("timm/vit_tiny_patch16_224", *data, "retrieval"): "needs a model that reads text",
        (model, *data, "retrieval,knn"): "retrieval has captions for labels, so it cannot share",
        (model, *data, "knn", "retrieval.rerank=5"): "retrieval.rerank",
        (model, *data, "retrieval", "pool=cls"): "pool",
        (model, *data, "retrieval", "--random-init"): "leave out --random-init",
    }.items():
        assert told in said(capsys, *words, code=2), words
