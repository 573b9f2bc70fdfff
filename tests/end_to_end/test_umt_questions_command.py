"""Questions about pictures and clips: trained on, killed and resumed, and answered from a list."""

import json
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, instead, kill_at_checkpoint
from safetensors.torch import load_file

from vistill.cli import main
from vistill.models.export import save_backbone
from vistill.models.joint_umt import umt_answers
from vistill.models.text.answering import Answerer
from vistill.models.text.bert import BertSizes, SplitBert
from vistill.models.text.saved import load_answers, save_text
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer

pytestmark = pytest.mark.slow

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["which", "is", "it", "how", "many", "a", "b", "red", "one", "two"]
TEXT = [
    "method.text.depth=2",
    "method.text.embed_dim=32",
    "method.text.num_heads=2",
    "method.text.dropout=0",
    "method.text.max_length=8",
    "method.text.fusion_layer=1",
]
QUICK = ["device=cpu", "workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, and questions of which the words tell the answer."""
    out = tmp_path_factory.mktemp("questions")
    (out / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    pictures = sorted(CELLS.glob("train/*/*"))[:24]
    lines = [
        f"{picture},{question},{answer}"
        for picture in pictures
        for question, answer in (("Which is it?", "red"), ("How many?", "one two"))
    ]
    (out / "questions.csv").write_text("image,question,answer\n" + "\n".join(lines) + "\n")
    return out


def words(folder: Path, out: Path, *more: str) -> list[str]:
    usual = [*SIZES, "student.model=vit", "train.loggers=[]", "train.epochs=2", *TEXT,
             f"method.text.tokenizer={folder / 'vocab.txt'}"]  # fmt: skip
    given = ["pretrain", "umt_questions", "--data", folder / "questions.csv", "--out", out]
    return [str(word) for word in [*given, *instead(usual, *more)]]


@pytest.fixture(scope="module")
def learned(folder: Path) -> Path:
    out = folder / "run"
    assert main(words(folder, out, "train.epochs=20", "optim.lr=5e-3", "data.held_out=0")) == 0
    return out


def test_what_the_words_tell_is_learned(
    learned: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    lines = [json.loads(line) for line in (learned / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss/answer"] for line in lines if "loss/answer" in line]
    assert found[-1] < 0.2 < found[0]
    out = tmp_path / "answers.json"
    told = ["evaluate", f"run:{learned}", "--data", folder / "questions.csv", "--protocols",
            "questions", "--out", out, *QUICK]  # fmt: skip
    assert main([str(word) for word in told]) == 0
    said = capsys.readouterr().out
    assert "48 questions, 2 answers to choose from: 100.0" in said
    assert "always the commonest answer: 50.0 %" in said
    answers = json.loads(out.read_text())["answers"]
    assert answers["accuracy"][0] == 100
    assert answers["unlisted"] == 0

    # A list in which one of the right answers is missing, and others that none gives.
    (tmp_path / "list.txt").write_text("a\nRed!\n\nb\n")
    listed = f"questions.answers={tmp_path / 'list.txt'}"
    assert main([*map(str, told), listed]) == 0
    said = capsys.readouterr().out
    assert "48 questions, 3 answers to choose from: 50.0" in said
    assert "50.0 % of the right answers are not in the list" in said


def test_as_a_published_file(folder: Path, tmp_path: Path, capsys) -> None:
    vision = VisionTransformer(
        image_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, class_token=False,
        tubelet_size=1, num_frames=2, qkv_bias="no_key",
    )  # fmt: skip
    sizes = BertSizes(len(SPECIAL + WORDS), width=32, layers=2, fusion_layer=1, heads=2,
                      positions=32, vision_width=48)  # fmt: skip
    cutter = Tokenizer(str(folder / "vocab.txt"), 8)
    own, out = tmp_path / "own", tmp_path / "out"
    save_backbone(vision, own)
    save_text(Answerer(SplitBert(sizes)), own, tokenizer=cutter.json, length=8,
              answers=["red", "two"], answer_length=5)  # fmt: skip
    told = ["export", str(own), "--out", str(out), "--format", "umt"]
    assert main([*told, "--random-init"]) == 0
    numbers = "image_size=32,num_heads=3,text_heads=2,fusion_layer=1,frames=2"
    reference = f"{out / 'checkpoint.pth'},tokenizer={folder / 'vocab.txt'},{numbers}"
    ours, theirs = load_answers(own), umt_answers(reference)
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name
    tokens, questions = torch.randn(3, 8, 48), ["which is it", "how many", "a b"]
    assert ours.answer(tokens, questions, WORDS) == theirs.answer(tokens, questions, WORDS)

    told = ["evaluate", f"file:{reference}", "--data", str(folder / "questions.csv"),
            "--protocols", "questions", *QUICK]  # fmt: skip
    assert main(told) == 2
    assert "has no list of answers to choose from: questions.answers" in capsys.readouterr().err
    state = torch.load(out / "checkpoint.pth", weights_only=True)
    torch.save({k: v for k, v in state.items() if "text_decoder" not in k}, out / "checkpoint.pth")
    assert main([*told, "questions.answers=nowhere.txt"]) == 2
    assert "no model of UMT for questions: no text_decoder" in capsys.readouterr().err


def test_killed_and_resumed(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(words(folder, whole)) == 0
    again = words(folder, out, "train.checkpoint_steps=1")
    kill_at_checkpoint(out, *again)
    assert main(again) == 0
    for file in ("model.safetensors", "text.safetensors"):
        expected = load_file(whole / "export" / "last" / file)
        for name, value in load_file(out / "export" / "last" / file).items():
            assert torch.equal(value, expected[name]), name


def test_mistakes(learned: Path, folder: Path, tmp_path: Path, mae_run: Path, capsys) -> None:
    picture = next(CELLS.glob("train/*/*"))
    (tmp_path / "bare.csv").write_text(f"image,caption\n{picture},a cell\n")
    (tmp_path / "none.json").write_text('{"a": 1}')
    asked = ["evaluate", f"run:{learned}", "--protocols", "questions", *QUICK, "--data"]
    train = words(folder, tmp_path / "run")
    bare = [str(tmp_path / "bare.csv") if "questions.csv" in word else word for word in train]
    data = str(folder / "questions.csv")
    for given, message in (
        (bare, "asks nothing: give a list with columns media, question and answer"),
        ([*asked, str(tmp_path / "bare.csv")], "asks nothing"),
        ([*asked, data, f"questions.answers={tmp_path / 'none.json'}"], "holds no list of texts"),
        ([*asked, data, "questions.answers=nowhere.txt"], "nowhere.txt"),
        (["evaluate", f"run:{mae_run}", "--protocols", "questions", "--data", data],
         "questions needs a run of umt_questions"),
        (["evaluate", f"run:{learned}", "--protocols", "retrieval", "--data", data],
         "retrieval needs a model that reads text"),
        ([*train, "method.captions=joined"], "captions"),
    ):  # fmt: skip
        assert main(given) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1, told
    assert not (tmp_path / "run").exists()
