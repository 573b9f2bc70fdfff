"""`vistill index` and `vistill search` on real pictures and clips, and what befalls them."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CELLS, environment, run
from tiny_clip import WORDS, write_tiny_clip

import vistill
from vistill.cli import main
from vistill.data import EvalTransform, decode_image, open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.models.build import create_backbone
from vistill.models.export import save_backbone
from vistill.search.index_folder import read_index

QUICK = ["workers=0", "device=cpu", "batch_size=4"]
SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def saved(folder: Path, seed: int = 0, **more: int) -> Path:
    torch.manual_seed(seed)
    backbone = create_backbone("vit", **(SIZES | more)).eval()
    backbone.untrained = False
    save_backbone(backbone, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "pictures")


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "clips", num_frames=4)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf/{write_tiny_clip(tmp_path_factory.mktemp('models') / 'clip')}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, path in enumerate(sorted((CELLS / "test").rglob("*.*"))):
        shutil.copy2(path, folder / f"cell_{chr(97 + number)}{path.suffix}")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clips"
    write_motion_clips(open_source(str(CELLS / "test")), folder, count=5, frames=50, size=32)
    return folder


def made(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What a command said: its output, or its error where one is expected."""
    found = main(list(map(str, words)))
    said = capsys.readouterr()
    assert found == code, said.err
    return said.err if code else said.out


def test_index_and_search(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real commands, on real pictures."""
    (pictures / "broken.jpg").write_bytes(b"no picture")
    out, page = tmp_path / "index", tmp_path / "found.html"
    count = len(list(pictures.iterdir())) - 1
    done = run("index", pictures, "--model", model, "--out", out, *QUICK)
    assert f"{count} pictures: {out} ({count} new, 0 changed, 0 deleted, 0 kept)" in done.stdout
    assert "left out, since unreadable: 1 picture\n  broken.jpg: not a picture" in done.stdout
    assert sorted(p.name.split("-")[0] for p in out.iterdir()) == [
        "embeddings",
        "entries",
        "index.json",
    ]
    like = sorted(pictures.iterdir())[5]
    search = ["search", "--index", out, "--like", like, "device=cpu"]
    hits = json.loads(made(capsys, *search, "--top", 3, "--json"))["hits"]
    assert hits[0]["file"] == like.name
    assert hits[0]["path"] == str(like)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)

    # The scores are cosines of the model's features.
    backbone = vistill.load_backbone(model)
    features = []
    for name in (like.name, hits[1]["file"]):
        pixels = EvalTransform(32)(decode_image((pictures / name).read_bytes()))[None].float()
        with torch.no_grad():
            features.append(backbone.pooled(backbone.normalization(pixels / 255))[0])
    expected = torch.cosine_similarity(*features, dim=0).item()
    assert hits[1]["score"] == pytest.approx(expected, abs=1e-5)

    lines = made(capsys, *search, "--html", page).splitlines()
    assert lines[0].split() == ["score", "file"]
    assert lines[1].split() == ["1", "1.000", like.name]
    assert lines[-1] == str(page)
    assert page.read_text().count("data:image/jpeg;base64,") == 11  # ten, and what was asked


def test_only_what_is_new_or_changed_is_embedded(
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vistill.models.vit import VisionTransformer

    seen: list[int] = []
    pooled = VisionTransformer.pooled

    def counting(self: VisionTransformer, images: torch.Tensor, *rest: str) -> torch.Tensor:
        seen.append(len(images))
        return pooled(self, images, *rest)

    monkeypatch.setattr(VisionTransformer, "pooled", counting)
    words = ["index", pictures, "--model", model, "--out", tmp_path / "index", *QUICK]
    made(capsys, *words)
    count = sum(seen)
    before = read_index(tmp_path / "index")
    told = made(capsys, *words)
    assert f"(0 new, 0 changed, 0 deleted, {count} kept)" in told
    assert sum(seen) == count
    assert read_index(tmp_path / "index").generation == before.generation

    names = sorted(path.name for path in pictures.iterdir())
    shutil.copy2(pictures / names[3], pictures / names[5])  # another content under an old name
    (pictures / names[4]).unlink()
    shutil.copy2(pictures / names[3], pictures / "new.jpg")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    told = made(capsys, *words)
    assert f"(1 new, 1 changed, 1 deleted, {count - 2} kept)" in told
    assert "broken.jpg: not a picture" in told
    assert sum(seen) == count + 2
    after = read_index(tmp_path / "index")
    rows = dict(zip(after.entries.files, after.embeddings, strict=True))
    assert sorted(rows) == sorted({*names, "new.jpg"} - {names[4]})
    for name in (names[5], "new.jpg"):
        np.testing.assert_allclose(rows[name], rows[names[3]], atol=1e-6)
    old = dict(zip(before.entries.files, before.embeddings, strict=True))
    np.testing.assert_array_equal(rows[names[7]], old[names[7]])

    # The same as an index made anew.
    made(capsys, *words[:4], "--out", tmp_path / "anew", *QUICK)
    anew = read_index(tmp_path / "anew")
    assert list(anew.entries.files) == list(after.entries.files)
    np.testing.assert_allclose(anew.embeddings, after.embeddings, atol=1e-6)


def test_long_clips_are_found_by_the_second(
    model: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    words = ["index", clips, "--model", model, "--window", 0.8, "--stride", 0.4, "frames=3", *QUICK]
    told = made(capsys, *words, "--out", out)
    index = read_index(out)
    files = set(index.entries.files)
    assert f"{len(files)} clips in {len(index.entries)} spans" in told
    assert index.told.window == (0.8, 0.4)
    spans = [index.entries.span(row) for row in range(4)]
    assert [(span.start, span.end) for span in spans if span is not None] == [
        (0, 0.8),
        (0.4, 1.2),
        (0.8, 1.6),
        (1.2, 2.0),
    ]
    assert f"({0} new, 0 changed, 0 deleted, {len(files)} kept)" in made(
        capsys, *words, "--out", out
    )
    clip = clips / index.entries.files[0]
    told = made(capsys, "search", "--index", out, "--like", clip, "device=cpu", "--json")
    hit = json.loads(told)["hits"][0]
    assert hit["unit"] == "s"
    assert hit["end"] - hit["start"] == pytest.approx(0.8)
    told = made(capsys, "search", "--index", out, "--like", clip, "--html", tmp_path / "p.html")
    assert told.splitlines()[0].split() == ["score", "file", "span"]
    assert " s to " in told
    assert (tmp_path / "p.html").read_text().count("<img") == 11

    # A still is compared with the frames.
    still = next(iter((CELLS / "test").rglob("*.jpg")), next(iter((CELLS / "test").rglob("*.*"))))
    made(capsys, "search", "--index", out, "--like", still, "device=cpu")


def test_a_model_of_clips(
    clip_model: Path,
    clips: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "index"
    made(capsys, "index", clips, "--model", clip_model, "--out", out, "stride=2", *QUICK)
    clip = sorted(clips.rglob("*.mp4"))[2]
    told = made(capsys, "search", "--index", out, "--like", clip, "--json", "device=cpu")
    first = json.loads(told)["hits"][0]
    assert first["path"] == str(clip)
    assert first["score"] == pytest.approx(1, abs=1e-5)
    still = next(pictures.iterdir())
    told = made(capsys, "search", "--index", out, "--like", still, code=2)
    assert f"--like {still} is a picture, and run:{clip_model} takes clips; name a clip" in told


def test_a_sentence_finds_what_is_nearest_to_it(
    tiny_clip: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import CLIPModel

    out = tmp_path / "index"
    made(capsys, "index", pictures, "--model", tiny_clip, "--out", out, *QUICK)
    told = made(
        capsys, "search", "a red cell", "--index", out, "--json", "--top", 100, "device=cpu"
    )
    hits = json.loads(told)["hits"]
    reference = CLIPModel.from_pretrained(tiny_clip.removeprefix("hf/")).eval()
    ids = torch.tensor([[WORDS.index(word) for word in ("<s>", "a", "red", "cell", "</s>")]])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        for hit in hits:
            pixels = EvalTransform(32)(decode_image(Path(hit["path"]).read_bytes())).float() / 255
            output = reference(input_ids=ids, pixel_values=((pixels - mean) / std)[None])
            expected = torch.cosine_similarity(output.text_embeds, output.image_embeds).item()
            assert hit["score"] == pytest.approx(expected, abs=1e-5)
    assert len(hits) == len(list(pictures.iterdir()))

    # Both together: what is most like their mean.
    like = pictures / hits[-1]["file"]
    told = made(
        capsys, "search", "a red cell", "--like", like, "--index", out, "--json", "--top", 1
    )
    assert json.loads(told)["hits"][0]["score"] > hits[0]["score"]


def test_clips_by_a_sentence(
    tiny_clip: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    made(capsys, "index", clips, "--model", tiny_clip, "--out", out, "frames=3", *QUICK)
    assert "mp4" in made(capsys, "search", "a blue cell", "--index", out, "device=cpu")


def test_what_cannot_be_done_is_told(
    model: Path,
    tiny_clip: str,
    pictures: Path,
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, other = tmp_path / "index", tmp_path / "other"
    words = ["index", pictures, "--model", model, "--out"]
    made(capsys, *words, out, *QUICK)
    was = {path.name: path.read_bytes() for path in out.iterdir()}
    like = next(pictures.iterdir())
    second = saved(tmp_path / "second", seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (pictures.parent / "broken.jpg").write_bytes(b"no picture")
    index, search = ("index", pictures, "--model"), ("search", "--index")
    for said, told in {
        (*index, second, "--out", out, *QUICK): "has other weights; take that model",
        (*index, tiny_clip, "--out", out, *QUICK): "has other weights",
        (*index, model, "--out", out, "image_size=64"): "was made with size 32, not 64",
        ("index", CELLS, "--model", model, "--out", out, *QUICK): f"is an index of {pictures}, not",
        (*index, model, "--out", tmp_path / "full"): "holds other files (notes.txt)",
        (*index, model, "--out", like): "is a file; name a folder",
        (*index, model, "--out", tmp_path / "no" / "where"): "does not exist",
        (
            *index,
            model,
            "--out",
            other,
            "--window",
            2,
        ): "pictures are read where frames is left out",
        (*index, model, "--out", other, "--stride", 2): "--stride 2 goes with --window",
        (*index, model, "--out", other, "--window", 1, "--stride", 2): "leaves gaps",
        (*index, model, "--out", other, "--window", 0): "must be 0.1 seconds or more",
        (*index, "vit_tiny", "--out", other): "would have random weights",
        ("index", tmp_path / "none", "--model", model, "--out", other): "does not exist",
        ("index", pictures): "give --model MODEL --out DIR",
        ("search",): "give --index DIR",
        (*search, out): "a sentence, or --like FILE",
        (*search, out, " "): "the sentence is empty",
        (*search, out, "a", "red"): 'put the sentence in quotes: "a red"',
        (*search, out, "a red cell"): "which reads no text; look for a picture or clip with --like",
        (*search, out, "--like", tmp_path / "no.jpg"): "no.jpg does not exist",
        (*search, out, "--like", pictures.parent / "broken.jpg"): "cannot be read: not a picture",
        (*search, out, "--like", like, "--top", 0): "--top must be 1 or more",
        (*search, out, "--like", like, "--html", tmp_path): "is a folder; name an HTML file",
        (*search, tmp_path / "indeks", "--like", like): "did you mean",
        (*search, tmp_path / "empty", "--like", like): "holds no index",
        (*search, out, "--like", like, "--model", second): "are others, so make the index anew",
    }.items():
        assert told in made(capsys, *said, code=2), said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == was
    assert not other.exists()

    # What was indexed has changed into something that cannot be read: the index stays.
    for path in pictures.iterdir():
        path.write_bytes(b"no picture any more")
    assert "can be read" in made(capsys, *words, out, *QUICK, code=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == was


def test_a_moved_folder_and_a_moved_model(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "index", tmp_path / "moved"
    first = tmp_path / "first"
    shutil.copytree(model, first)
    made(capsys, "index", pictures, "--model", first, "--out", out, *QUICK)
    pictures.rename(moved)
    told = made(capsys, "index", moved, "--model", first, "--out", out, *QUICK)
    assert "(0 new, 0 changed, 0 deleted," in told
    like = next(moved.iterdir())
    first.rename(tmp_path / "elsewhere")
    assert "first" in made(capsys, "search", "--index", out, "--like", like, code=2)
    words = ["search", "--index", out, "--like", like, "--model", tmp_path / "elsewhere", "--json"]
    assert json.loads(made(capsys, *words))["hits"][0]["path"] == str(like)


def test_pictures_of_an_archive(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    out, page = tmp_path / "index", tmp_path / "page.html"
    made(capsys, "index", archive, "--model", model, "--out", out, *QUICK)
    like = next(pictures.iterdir())
    words = ["search", "--index", out, "--like", like, "--html", page, "--json"]
    hit = json.loads(made(capsys, *words))["hits"][0]
    assert (hit["file"], hit["path"]) == (like.name, None)
    assert page.read_text().count("<img") == 11
    Path(archive).unlink()
    made(capsys, *words)
    assert page.read_text().count("not there any more") == 10


KILLED = """
import os, signal, sys
from vistill.cli import main
from vistill.evaluation import rows
from vistill.search import index_folder

def add(self, ids, values, add=rows.RowFile.add):
    add(self, ids, values)
    if sys.argv[1] == "rows" and self.done.sum() >= 8:
        os.kill(os.getpid(), signal.SIGKILL)

def write(path, content, write=index_folder.write_atomic):
    if sys.argv[1] != path.name:
        write(path, content)
    os.kill(os.getpid(), signal.SIGKILL)

rows.RowFile.add, rows._COMMIT_SECONDS = add, 0.0
index_folder.write_atomic = write
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["rows", "index.json", "afterwards"])
def test_a_killed_index_goes_on(
    where: str, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed among its rows, in front of the file that makes them the index, and behind it."""
    words = ["index", str(pictures), "--model", str(model), *QUICK, "--out"]
    made(capsys, *words, tmp_path / "whole")
    out, count = tmp_path / "index", len(list(pictures.iterdir()))
    killed = subprocess.run([sys.executable, "-c", KILLED, where, *words, out], env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert (out / "index.json").exists() == (where == "afterwards")
    told = made(capsys, *words, out)
    if where == "afterwards":
        assert f"(0 new, 0 changed, 0 deleted, {count} kept)" in told
    else:
        done = 8 if where == "rows" else count
        assert f"{done} of {count} pictures were done before" in told
        assert f"({count} new, 0 changed, 0 deleted, 0 kept)" in told
    found, whole = read_index(out), read_index(tmp_path / "whole")
    np.testing.assert_array_equal(found.embeddings, whole.embeddings)
    assert list(found.entries.files) == list(whole.entries.files)
    made(capsys, *words, out)
    (pictures / "one more.png").write_bytes(next(pictures.iterdir()).read_bytes())
    made(capsys, *words, out)
    assert len(list(out.iterdir())) == 3  # nothing is left behind


def test_approximate_search_names_its_extra(
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vistill.search import nearest

    out, like = tmp_path / "index", next(pictures.iterdir())
    made(capsys, "index", pictures, "--model", model, "--out", out, *QUICK)
    words = ["search", "--index", out, "--like", like, "--approximate", "--json", "device=cpu"]
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    assert "pip install 'vistill[search]'" in made(capsys, *words, code=2)
    monkeypatch.undo()
    pytest.importorskip("usearch")
    exact = json.loads(made(capsys, *words[:5], *words[6:]))["hits"]
    assert json.loads(made(capsys, *words))["hits"] == exact
    assert len(list(out.glob("graph-*"))) == 1
    (pictures / like.name).unlink()
    made(capsys, "index", pictures, "--model", model, "--out", out, *QUICK)
    assert not list(out.glob("graph-*"))
