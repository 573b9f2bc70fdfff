"""`vistill pretrain umt_multimodal`: pictures and clips with captions, from a first stage, killed
and resumed, shared by two ranks, and found by sentences."""

import json
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, kill_at_checkpoint, run, run_on_two_ranks
from safetensors.torch import load_file

from vistill.cli import main
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

WORDS = ["a", "red", "pale", "cell", "one", "many", "round", "dark", "moves", "left", "of"]
TEXT = ["method.text.depth=2", "method.text.embed_dim=32", "method.text.num_heads=2",
        "method.text.dropout=0", "method.text.max_length=8", "method.embedding=16",
        "method.alignment.aligned_layers=2"]  # fmt: skip
SMALL = [*SIZES, "student.model=vit", "train.loggers=[]", "train.epochs=2", *TEXT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, and lists of pictures and clips with captions."""
    out = tmp_path_factory.mktemp("text")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (out / "vocab.txt").write_text("\n".join(special + WORDS) + "\n")
    pictures = sorted(CELLS.glob("train/*/*"))[:24]
    lines = [
        f"{picture},{WORDS[i % 5]} {WORDS[1 + i % 7]} cell, {WORDS[i % 3]} of {n}"
        for i, picture in enumerate(pictures)
        for n in ("one", "many")
    ]
    (out / "pictures.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
    clips = out / "clips"
    write_motion_clips(open_source(str(CELLS / "train")), clips, count=16, frames=6, size=40)
    told = [
        {"video": str(clip.relative_to(out)), "caption": [f"{WORDS[i % 9]} moves", "a cell moves"]}
        for i, clip in enumerate(sorted(clips.rglob("*.mp4")))
    ]
    (out / "clips.json").write_text(json.dumps(told))
    return out


def words(mae_run: Path, folder: Path, out: Path, *more: str, data: bool = True) -> list[str]:
    tokenizer = f"method.text.tokenizer={folder / 'vocab.txt'}"
    keys = {word.partition("=")[0] for word in more}
    usual = [word for word in [*SMALL, tokenizer] if word.partition("=")[0] not in keys]
    given = ["pretrain", "umt_multimodal", "--out", out, "--teacher", f"run:{mae_run}"]
    given += ["--data", folder / "pictures.csv"] if data else []
    return [str(word) for word in [*given, *usual, *more]]


@pytest.fixture(scope="module")
def whole(mae_run: Path, folder: Path) -> Path:
    """A run on pictures that nothing happened to."""
    out = folder / "whole"
    told = run(*words(mae_run, folder, out))
    assert "24 pictures" in told.stdout
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of student and tower."""
    place = out / "export" / "last"
    return load_file(place / "model.safetensors") | {
        f"text {k}": v for k, v in load_file(place / "text.safetensors").items()
    }


def test_every_loss_is_learned(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    terms = ("alignment", "contrast", "matching", "words")
    assert all(lines[-1][f"loss/{term}"] > 0 for term in terms)
    assert lines[-1]["held_out_loss"] < 12
    total = sum(lines[-1][f"loss/{term}"] for term in terms)
    assert lines[-1]["loss"] == pytest.approx(total, rel=1e-4)


def test_sentences_find_pictures(whole: Path, folder: Path) -> None:
    told = run("evaluate", f"run:{whole}", "--data", folder / "pictures.csv",
               "--protocols", "retrieval", "device=cpu", "workers=0")  # fmt: skip
    assert "48 texts, 24 pictures" in told.stdout
    assert "reranked" in told.stdout


def test_search_by_a_sentence(whole: Path, tmp_path: Path, capsys) -> None:
    index = tmp_path / "index"
    made = ["index", CELLS / "train", "--model", f"run:{whole}", "--out", index]
    assert main([str(word) for word in [*made, "device=cpu", "workers=0"]]) == 0
    capsys.readouterr()
    assert main(["search", "a red cell", "--index", str(index), "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found if isinstance(found, list) else found["hits"]) == 3


@pytest.mark.slow
def test_killed_and_resumed(whole: Path, mae_run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    again = words(mae_run, folder, out, "train.checkpoint_steps=1")
    kill_at_checkpoint(out, *again)
    assert main(again) == 0
    for name, value in weights(whole).items():
        assert torch.equal(weights(out)[name], value), name


@pytest.mark.slow
def test_two_ranks_are_one(whole: Path, mae_run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_on_two_ranks(*words(mae_run, folder, out))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(out)[name], value, atol=1e-4, rtol=1e-3)


def test_pictures_and_clips_from_a_first_stage(mae_run: Path, folder: Path, tmp_path: Path) -> None:
    clips = ["data.frames=2", "data.sampling=segments", "method.aligned_layers=2"]
    first = ["pretrain", "umt", "--data", folder / "clips", "--out", tmp_path / "first",
             "--teacher", f"run:{mae_run}", "train.epochs=1", "train.loggers=[]", *SIZES,
             "student.model=vit", *clips]  # fmt: skip
    assert main([str(word) for word in first]) == 0
    sources = [
        f"data.sources.stills.train={folder / 'pictures.csv'}",
        f"data.sources.films.train={folder / 'clips.json'}",
        "data.sources.films.frames=2",
        "data.sources.films.sampling=segments",
        f"student.init=run:{tmp_path / 'first'}",
        "train.knn_probe=false",
    ]
    out = tmp_path / "second"
    given = words(mae_run, folder, out, *sources, data=False)
    assert main(given) == 0
    before = load_file(tmp_path / "first" / "export" / "last" / "model.safetensors")
    after = load_file(out / "export" / "last" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = (after["blocks.0.mlp.fc1.weight"] - before["blocks.0.mlp.fc1.weight"]).abs().mean()
    assert 0 < moved < 0.05  # it went on from there


@pytest.mark.slow
def test_a_mixture_of_pictures_and_clips_has_a_cache_for_each(
    mae_run: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """The second run looks at nothing through its teacher, and comes to the same weights."""
    mixture = [
        f"data.sources.stills.train={folder / 'pictures.csv'}",
        f"data.sources.films.train={folder / 'clips.json'}",
        "data.sources.films.frames=2",
        "data.sources.films.sampling=segments",
        "train.knn_probe=false",
    ]
    usual = [f"cache={tmp_path / 'cache'}", "cache.views=2", "train.precision=fp32"]
    told = {}
    for name in ("cold", "warm"):
        given = words(mae_run, folder, tmp_path / name, *mixture, *usual, data=False)
        assert main(given) == 0
        told[name] = [line for line in capsys.readouterr().out.splitlines() if "were read" in line]
    assert all(int(line.split()[1]) < int(line.split()[3]) / 2 for line in told["cold"])
    assert len(told["warm"]) == 2
    assert all(line.split()[1] == line.split()[3] != "0" for line in told["warm"])
    for name, value in weights(tmp_path / "cold").items():
        assert torch.equal(weights(tmp_path / "warm")[name], value), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["method.text.tokenizer=nowhere.txt"], "there is no tokenizer nowhere.txt"),
        (["method.text.num_heads=3"], "method.text.embed_dim=32 cannot be split"),
        (["method.text.fusion_layer=2"], "leaves none of 2 layers"),
        (["method.text.layers=3"], "did you mean"),
        (["method.alignment.aligned_layers=3"], "do not fit into the"),
        (["student.patch_size=16"], "teacher.image_size=16 gives it as many"),
        (["student.model=swinv2_tiny"], "swinv2_tiny"),
        (["method.alignment.masks=2"], "did you mean method.alignment.mask"),
    ],
)
def test_mistakes(
    more: list[str], message: str, mae_run: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(mae_run, folder, tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_one_student_at_a_time(mae_run: Path, folder: Path, tmp_path: Path, capsys) -> None:
    several = "students={a: {model: vit}, b: {model: vit, embed_dim: 24}}"
    given = words(mae_run, folder, tmp_path / "run", several)
    assert main([word for word in given if word != "student.model=vit"]) == 2
    assert "what reads its sentences belongs to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nx.png,a\n", "has a caption"),
        ("image,caption\nx.png,\n", "has a caption"),
    ],
)
def test_lists_without_captions(
    text: str, message: str, mae_run: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    picture = next(CELLS.glob("train/*/*"))
    (tmp_path / "x.png").write_bytes(picture.read_bytes())
    (tmp_path / "list.csv").write_text(text.replace("image,label", "path,label"))
    given = words(mae_run, folder, tmp_path / "run", data=False)
    assert main([*given, "--data", str(tmp_path / "list.csv")]) == 2
    assert message in capsys.readouterr().err
