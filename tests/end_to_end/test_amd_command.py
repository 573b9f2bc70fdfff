"""`vistill pretrain amd` with a teacher of `vistill pretrain videomae`, from clips to published
names; and AMD of pictures with a teacher of `vistill pretrain mae`."""

import json
from pathlib import Path

import pytest
import torch
from command_line import CELLS, SIZES, run

import vistill
from vistill.cli import main
from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips

pytestmark = pytest.mark.slow

CLIPS = [*SIZES, "student.model=vit", "data.frames=4", "data.stride=2", "train.epochs=1"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_motion_clips(open_source(str(CELLS / "train")), folder, count=16, frames=10, size=40)
    return folder


@pytest.fixture(scope="module")
def student(clips: Path) -> Path:
    """A run of AMD beside the run of its teacher."""
    teacher, out = clips.parent / "teacher", clips.parent / "student"
    run("pretrain", "videomae", "--data", clips, "--out", teacher, *CLIPS)
    words = ["--teacher", f"run:{teacher}", "student.embed_dim=24", "data.repeats=2"]
    small = [word for word in CLIPS if "embed_dim" not in word]
    done = run("pretrain", "amd", "--data", clips, "--out", out, *words, *small)
    assert "direct" in done.stderr + done.stdout
    return out


def test_every_loss_is_logged(student: Path) -> None:
    last = json.loads((student / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("direct", "generation", "reconstruction"):
        assert last[f"loss/{name}"] > 0
    assert last["direct_1_1"] > 0
    assert last["teacher_norm_2"] > 0
    assert last["loss"] == pytest.approx(
        sum(last[f"loss/{name}"] for name in ("direct", "generation", "reconstruction")), rel=1e-4
    )


def test_out_and_in_by_the_published_names(student: Path, clips: Path, tmp_path: Path) -> None:
    words = ["export", str(student), "--format", "videomae", "--which", "last"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]
    heads = {name.split(".")[0] for name in state}
    assert heads == {"encoder", "encoder_to_decoder", "decoder", "mask_token", "generators"}
    assert state["encoder.projection_heads.1.weight"].shape == (48, 24)
    assert not [name for name in state if name.endswith("pos_embed")]

    reference = f"file:{tmp_path}/checkpoint.pth,num_heads=3"
    words = ["pretrain", "amd", "--data", str(clips), "--teacher", reference, *CLIPS]
    assert main([*words, "--out", str(tmp_path / "again"), "--dry-run"]) == 0
    # At its own size the file is the export, position table included.
    found = vistill.load_backbone(reference, image_size=32)
    own = vistill.load_backbone(student / "export" / "last")
    for name, value in own.state_dict().items():
        assert name == "pos_embed" or torch.equal(found.state_dict()[name], value)


def test_pictures(mae_run: Path, tmp_path: Path) -> None:
    decoder = [f"method.reconstruction.decoder.{name}" for name in
               ("embed_dim=32", "depth=1", "num_heads=2")]  # fmt: skip
    words = ["pretrain", "amd", "--data", CELLS / "train", "--out", tmp_path / "run"]
    words += ["--teacher", f"run:{mae_run}", "student.model=vit", "train.epochs=1"]
    assert main([str(word) for word in [*words, *SIZES, *decoder, "train.knn_probe=false"]]) == 0
    assert vistill.load_backbone(tmp_path / "run").num_frames == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.student_mask_ratio=0.5"], "method.student_mask_ratio=0.5 is below"),
        (["student.tubelet_size=4"], "the teacher's tokens span 2 frames"),
        (["student.patch_size=16"], "the student has 2 x 2 x 2 tokens and the teacher 2 x 4 x 4"),
        (["data.frames=5"], "5 frames are no multiple of the tubelet size 2; 4 or 6 would do"),
        (["method.direct.pairs=[[2,3]]"], "as deep in these two are method.direct.pairs=[[1,1]]"),
        (["teacher.block=1"], "amd does not read teacher.block"),
        (["student.model=timm/resnet18"], "takes pictures, not clips"),
    ],
)
def test_mistakes(
    words: list[str], message: str, student: Path, clips: Path, tmp_path: Path, capsys
) -> None:
    start = ["pretrain", "amd", "--data", str(clips), "--out", str(tmp_path / "x")]
    given = {word.partition("=")[0] for word in words}
    if words[0].startswith("student.model=timm"):
        given |= {word.partition("=")[0] for word in CLIPS if word.startswith("student.")}
    rest = [word for word in CLIPS if word.partition("=")[0] not in given]
    assert main([*start, "--teacher", f"run:{student.parent / 'teacher'}", *rest, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
