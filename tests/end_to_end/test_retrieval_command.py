"""`vistill evaluate --protocols retrieval`: captions and what they describe find each other."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import CELLS
from tiny_clip import write_tiny_clip
from tiny_umt import write_tiny_umt

from vistill.cli import main
from vistill.data import EvalTransform, decode_image
from vistill.data.motion_clips import write_motion_clips
from vistill.data.opening import open_source
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.transforms import VideoTestTransform
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


def test_a_matching_head_ranks_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """UMT's second stage, by hand from all pairs."""
    reference = write_tiny_umt(tmp_path)
    clips, out = tmp_path / "clips", tmp_path / "scores.json"
    write_motion_clips(open_source(str(CELLS / "test")), clips, count=5, frames=12, size=32)
    data = listed(clips, tmp_path / "captions.json", per_line=False)
    words = (reference, "--data", data, "--protocols", "retrieval", "--out", out, *QUICK)
    told = said(capsys, *words, "retrieval.rerank=100")
    assert [line.split()[:2] for line in told.splitlines()[1:5]] == [
        ["text", "embeddings"],
        ["clip", "embeddings"],
        ["text", "reranked"],
        ["clip", "reranked"],
    ]
    plain, reranked = json.loads(out.read_text())["retrieval"]
    model = load_joint(reference)
    assert model is not None
    source = open_source(str(clips), "video")
    decoder = ClipDecoder(3, 4, "segments", views=1)
    frames = [decoder(source, i, np.random.default_rng(0)) for i in range(5)]
    pixels = torch.stack([VideoTestTransform(32)(clip)[0] for clip in frames]).float() / 255
    texts = [text for i in range(5) for text in captions_of(i)]
    owner = np.array([i for i in range(5) for _ in captions_of(i)])
    with torch.no_grad():
        seen, tokens = model.see_tokens(model.normalization(pixels))
        read = model.read_states(texts)
        sims = F.normalize(seen, dim=-1).mean(1) @ F.normalize(read.embeddings, dim=-1).T
        looked = [model.look(tokens[i : i + 1]) for i in range(5)]
        logits = torch.stack([model.match(one, read)[:, 1] for one in looked])
    for found, scores in ((plain, sims.numpy()), (reranked, logits.numpy())):
        ranks = [int((scores[:, t] >= scores[owner[t], t]).sum()) for t in range(len(texts))]
        assert found["text_to_media"]["mean_rank"][0] == pytest.approx(np.mean(ranks))
        best = [scores[i][owner == i].max() for i in range(5)]
        ranks = [1 + int((scores[i][owner != i] >= best[i]).sum()) for i in range(5)]
        assert found["media_to_text"]["mean_rank"][0] == pytest.approx(np.mean(ranks))


def test_multiple_choice(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The right one of several captions, by hand; with and without a matching head."""
    clips, out = tmp_path / "clips", tmp_path / "scores.json"
    write_motion_clips(open_source(str(CELLS / "test")), clips, count=6, frames=12, size=32)
    source = open_source(str(clips), "video")
    rows = [
        {"video": str(source.place(i)), "caption": TEXTS[: 3 + i % 3], "answer": i % 3}
        for i in range(6)
    ]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    words = ("--data", tmp_path / "questions.json", "--protocols", "multiple-choice", *QUICK)
    decoder = ClipDecoder(3, 4, "segments", views=1)
    frames = [decoder(source, i, np.random.default_rng(0)) for i in range(6)]
    pixels = torch.stack([VideoTestTransform(32)(clip)[0] for clip in frames]).float() / 255
    for reference, more in ((model, ["frames=3"]), (write_tiny_umt(tmp_path), [])):
        joint = load_joint(reference)
        assert joint is not None
        expected = {"embeddings": 0} | ({"matched": 0} if joint.matches else {})
        with torch.no_grad():
            images = joint.normalization(pixels)
            seen = F.normalize(joint.see_frames(images), dim=-1).mean(dim=1)
            for i, row in enumerate(rows):
                texts, answer = list(row["caption"]), row["answer"]
                similar = (F.normalize(joint.read(texts), dim=-1) @ seen[i]) / joint.temperature
                scores = {"embeddings": similar.softmax(0)}
                if joint.matches:
                    looked = joint.look(joint.see_tokens(images[i : i + 1])[1])
                    chance = joint.match(looked, joint.read_states(texts)).softmax(1)[:, 1]
                    scores["matched"] = 0.7 * chance + 0.3 * scores["embeddings"]
                for name, score in scores.items():
                    expected[name] += int(score.argmax() == answer)
        told = said(capsys, reference, *words, *more, "--out", out)
        found = {one["ranking"]: one for one in json.loads(out.read_text())["choices"]}
        assert found.keys() == expected.keys()
        for name, hits in expected.items():
            assert found[name]["accuracy"][0] == pytest.approx(100 * hits / 6)
            assert found[name]["by_chance"] == pytest.approx(100 * (1 / 3 + 1 / 4 + 1 / 5) / 3)
        assert "multiple choice by embeddings: " in told
    rows[2]["answer"] = 9
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    assert "and its answer is '9'" in said(capsys, model, *words, "frames=3", code=2)
    (tmp_path / "questions.json").write_text(json.dumps([{**rows[0], "answer": None}]))
    told = said(capsys, model, *words, "frames=3", code=2)
    assert "multiple-choice needs several captions and an answer" in told


def test_published_files_are_searched_by_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, out = write_tiny_umt(tmp_path), tmp_path / "index"
    clips = tmp_path / "clips"
    write_motion_clips(open_source(str(CELLS / "test")), clips, count=4, frames=12, size=32)
    assert main(["index", str(clips), "--model", reference, "--out", str(out), *QUICK]) == 0
    assert main(["search", "a red cell", "--index", str(out), "--json", "device=cpu"]) == 0
    told = capsys.readouterr().out
    assert len(json.loads(told[told.index("{") :])["hits"]) == 4


def test_clips_of_another_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the frames are further rows of the same table of positions."""
    reference = write_tiny_umt(tmp_path)
    longer = load_joint(reference.replace("frames=3", "frames=6"))
    model = load_joint(reference)
    assert model is not None
    assert longer is not None
    model.take_frames(6)
    clip = torch.rand(1, 3, 6, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.see_frames(clip), longer.see_frames(clip))
    clips = tmp_path / "clips"
    write_motion_clips(open_source(str(CELLS / "test")), clips, count=4, frames=12, size=32)
    data = listed(clips, tmp_path / "captions.json", per_line=False)
    words = (reference, "--data", data, "--protocols", "retrieval", "frames=6", *QUICK)
    assert "4 clips; by chance" in said(capsys, *words)
    index = ["index", str(clips), "--model", reference, "--out", str(tmp_path / "i"), "frames=6"]
    assert main([*index, *QUICK]) == 0
    assert main(["search", "a dog", "--index", str(tmp_path / "i"), "device=cpu"]) == 0


def test_files_that_are_no_second_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_tiny_umt(tmp_path)
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    vocabulary = f"tokenizer={tmp_path / 'vocab.txt'}"
    data = ("--data", CELLS / "test", "--protocols", "retrieval")
    for name, told in {
        f"file:{tmp_path / 'other.pth'},{vocabulary}": "holds no second stage of UMT",
        f"file:{tmp_path / 'none.pth'},{vocabulary}": "none.pth",
        reference.replace("vocab.txt", "words.txt"): "there is no tokenizer",
        reference.replace("frames=3", "frames=x"): "frames must be a number, not 'x'",
        f"{reference},size=3": "'size' is none of tokenizer, frames",
    }.items():
        assert told in said(capsys, name, *data, code=2), name


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
