"""`vistill pretrain umt` with a teacher of `vistill pretrain mae`: killed, resumed, shared by two
ranks, and measured."""

import json
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, kill_at_checkpoint, run, run_on_two_ranks

import vistill
from vistill.cli import main
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

CLIPS = [*SIZES, "student.model=vit", "data.frames=4", "data.stride=2", "train.epochs=2",
         "method.aligned_layers=2", "student.drop_path=0.2", "train.loggers=[]"]  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_motion_clips(open_source(str(CELLS / "train")), folder, count=40, frames=10, size=40)
    return folder


def words(mae_run: Path, clips: Path, out: Path, *more: str) -> list[str]:
    keys = {word.partition("=")[0] for word in more}
    usual = [word for word in CLIPS if word.partition("=")[0] not in keys]
    given = ["pretrain", "umt", "--data", clips, "--out", out, "--teacher", f"run:{mae_run}"]
    given += [*usual, *more]
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def whole(mae_run: Path, clips: Path) -> Path:
    """A run that nothing happened to."""
    out = clips.parent / "whole"
    told = run(*words(mae_run, clips, out))
    assert "alignment" in told.stderr
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return vistill.load_backbone(out / "export" / "last").state_dict()


def test_its_tokens_are_single_frames(whole: Path) -> None:
    student = vistill.load_backbone(whole)
    assert student.build is not None
    assert student.build["args"]["tubelet_size"] == 1
    assert student.num_prefix_tokens == 0
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["loss/alignment"] == last["loss"] < 4
    assert 0 < last["held_out_loss"] < 4


@pytest.mark.slow
def test_killed_and_resumed(whole: Path, mae_run: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    again = words(mae_run, clips, out, "train.checkpoint_steps=1")
    kill_at_checkpoint(out, *again)
    assert main(again) == 0
    for name, value in weights(whole).items():
        assert torch.equal(weights(out)[name], value), name


@pytest.mark.slow
def test_two_ranks_are_one(whole: Path, mae_run: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_on_two_ranks(*words(mae_run, clips, out))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(out)[name], value, atol=2e-5, rtol=1e-4)


def test_it_is_measured(whole: Path, clips: Path) -> None:
    told = run("evaluate", f"run:{whole}", "--data", clips, "--protocols", "knn", "stride=2",
               "device=cpu", "workers=0")  # fmt: skip
    assert "knn" in told.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["student.patch_size=16"], "teacher.image_size=16 gives it as many"),
        (["method.aligned_layers=3"], "do not fit into the"),
        (["method.mask=semantik"], "did you mean 'semantic'"),
        (["method.mask=none", "method.mask_ratio=0.5"], "method.mask_ratio=0.5 has no use"),
        (["method.layers=2"], "did you mean"),
        (["teacher.block=1"], "umt does not read teacher.block"),
    ],
)
def test_mistakes(
    more: list[str], message: str, mae_run: Path, clips: Path, tmp_path: Path, capsys
) -> None:
    assert main(words(mae_run, clips, tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not Path("there").exists()


def test_it_leaves_under_the_published_names(whole: Path, tmp_path: Path) -> None:
    said = ["export", str(whole), "--out", str(tmp_path), "--format", "umt", "--which", "last"]
    assert main(said) == 0
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert {"encoder.norm.weight", "clip_decoder.1.norm.bias"} <= state.keys()
    assert {name.split(".")[0] for name in state} == {"encoder", "clip_decoder"}
    student = vistill.load_backbone(whole / "export" / "last")
    heads, size = student.num_heads[0], "x".join(map(str, student.image_size))
    file = f"file:{tmp_path}/checkpoint.pth,num_heads={heads},image_size={size}"
    found = vistill.load_backbone(file)
    for name, value in student.state_dict().items():
        if name != "pos_embed":  # which the file does not hold, and 8 frames are assumed
            assert torch.equal(found.state_dict()[name], value), name
