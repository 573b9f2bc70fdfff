"""UMT's fine-tuning for retrieval: from a run of the second stage and from a published file of it,
and back under the published names."""

import json
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, instead, kill_at_checkpoint, run
from safetensors.torch import load_file
from tiny_umt import write_tiny_umt

from vistill.cli import main
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips
from vistill.models.joint import load_joint

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "red", "pale", "cell", "one", "many", "round", "dark", "moves", "left", "of"]
TEXT = ["method.text.depth=2", "method.text.embed_dim=32", "method.text.num_heads=2",
        "method.text.max_length=8", "method.embedding=16"]  # fmt: skip
USUAL = [*SIZES, "student.model=vit", "train.loggers=[]", "train.epochs=2", "data.frames=2",
         "data.sampling=segments"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with captions, and a vocabulary."""
    out = tmp_path_factory.mktemp("retrieval")
    (out / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    write_motion_clips(
        open_source(str(CELLS / "train")), out / "clips", count=12, frames=4, size=40
    )
    told = [
        {"video": str(clip.relative_to(out)), "caption": [f"{WORDS[i % 9]} moves", f"{i} cells"]}
        for i, clip in enumerate(sorted((out / "clips").rglob("*.mp4")))
    ]
    (out / "clips.json").write_text(json.dumps(told))
    return out


def words(method: str, folder: Path, out: Path, *more: str) -> list[str]:
    given = ["pretrain", method, "--data", folder / "clips.json", "--out", out]
    given += instead(USUAL, *more)
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def second(mae_run: Path, folder: Path) -> Path:
    """A run of the second stage."""
    out = folder / "second"
    own = [*TEXT, f"method.text.tokenizer={folder / 'vocab.txt'}"]
    given = words("umt_multimodal", folder, out, *own, "method.alignment.aligned_layers=2")
    assert main([*given, "--teacher", f"run:{mae_run}"]) == 0
    return out


def tuned(folder: Path, second: Path, out: Path, *more: str) -> list[str]:
    """The fine-tuning of that run."""
    start = [f"student.init=run:{second}", f"method.text.model=run:{second}"]
    return words("umt_retrieval", folder, out, *start, "method.text.max_length=8", *more)


def test_from_a_run_of_the_second_stage(folder: Path, second: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert main(tuned(folder, second, out, "optim.lr=1e-9")) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in lines[-1] if key.startswith("loss/")} == {
        "loss/contrast",
        "loss/matching",
    }
    # A step that small leaves all as it was: the towers came along, but for the guessing of words.
    before, after = (load_joint(f"run:{one}") for one in (second, out))
    own = dict(before.state_dict())
    assert after.joint.text.sizes.words is False
    for name, value in after.state_dict().items():
        torch.testing.assert_close(value, own[name], atol=1e-5, rtol=0)
    told = run("evaluate", f"run:{out}", "--data", folder / "clips.json", "--protocols",
               "retrieval", "device=cpu", "workers=0")  # fmt: skip
    assert "24 texts, 12 clips" in told.stdout


@pytest.mark.slow
def test_killed_and_resumed(folder: Path, second: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(tuned(folder, second, whole)) == 0
    again = tuned(folder, second, out, "train.checkpoint_steps=1")
    kill_at_checkpoint(out, *again)
    assert main(again) == 0
    for file in ("model.safetensors", "text.safetensors"):
        expected = load_file(whole / "export" / "last" / file)
        for name, value in load_file(out / "export" / "last" / file).items():
            assert torch.equal(value, expected[name]), name


def test_from_a_published_file(folder: Path, tmp_path: Path) -> None:
    reference = write_tiny_umt(tmp_path)
    path, *options = reference.removeprefix("file:").split(",")
    sizes = ["student.embed_dim=32", "student.depth=3", "student.num_heads=4",
             "student.patch_size=8", "data.image_size=32", "data.frames=3"]  # fmt: skip
    start = [f"student.init=file:{path},num_heads=4,image_size=32",
             f"method.text.model={','.join(['file:' + path, *options])}"]  # fmt: skip
    given = words("umt_retrieval", folder, tmp_path / "run", *sizes, *start, "optim.lr=1e-9",
                  "method.text.max_length=8", "student.qkv_bias=no_key")  # fmt: skip
    assert main(given) == 0
    published, after = load_joint(reference), load_joint(f"run:{tmp_path / 'run'}")
    own = dict(published.state_dict())
    for name, value in after.state_dict().items():
        torch.testing.assert_close(
            value.flatten(), own[name].flatten(), atol=1e-5, rtol=0, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("which", ["best", "last"])
def test_back_under_the_published_names(
    which: str, folder: Path, second: Path, tmp_path: Path
) -> None:
    told = ["export", second, "--out", tmp_path, "--format", "umt", "--which", which]
    assert main([str(word) for word in told]) == 0
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    towers = {"vision_encoder.encoder.patch_embed.proj.weight", "vision_proj.bias", "temp",
              "vision_encoder.pool_norm.weight", "itm_head.weight",
              "text_encoder.bert.encoder.layer.1.crossattention.self.key.weight",
              "text_encoder.bert.embeddings.position_ids",
              "text_encoder.cls.predictions.transform.dense.weight"}  # fmt: skip
    assert towers <= state.keys()
    assert state["temp"].shape == ()
    assert ("vision_encoder.clip_decoder.1.head.weight" in state) == (which == "last")
    numbers = "frames=2,image_size=32,num_heads=2,text_heads=2,fusion_layer=1"
    again = load_joint(
        f"file:{tmp_path / 'checkpoint.pth'},tokenizer={folder / 'vocab.txt'},{numbers}"
    )
    own = dict(load_joint(f"run:{second}").state_dict())
    assert again.state_dict().keys() == own.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value.flatten(), own[name].flatten()), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["student.embed_dim=96"], "take its student, too: student.init=run:"),
        (["method.embedding=32"], "method.embedding=32, but run:"),
        (["method.contrast_weight=0", "method.matching_weight=0"], "leave nothing to learn"),
        (["method.text.fusion_layer=2"], "was trained with 1; leave it out"),
        (["method.text.depth=3"], "method.text.depth"),
        (["method.words_weight=1"], "words_weight"),
        (["method.text.model=run:nowhere"], "there is no run nowhere"),
        (["method.text.model=file:x.pth"], "say what cuts its sentences"),
    ],
)
def test_mistakes(
    more: list[str], message: str, folder: Path, second: Path, tmp_path: Path, capsys
) -> None:
    given = tuned(folder, second, tmp_path / "run")
    keys = {word.partition("=")[0] for word in more}
    keys |= {"student.init"} if "student.embed_dim" in keys else set()
    given = [word for word in given if word.partition("=")[0] not in keys]
    assert main([*given, *more]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()
