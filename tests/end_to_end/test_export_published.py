"""`vistill export` under the names of published checkpoints."""

from pathlib import Path

import torch
from command_line import run

import vistill
from vistill.cli import main


def test_a_run_of_mae_as_mae_names_it(mae_run: Path, tmp_path: Path, capsys) -> None:
    done = run("export", mae_run, "--out", tmp_path, "--format", "mae", "--which", "last")
    assert str(tmp_path / "checkpoint.pth") in done.stdout
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]
    names = {"mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_pred.bias"}
    assert names | {"cls_token", "pos_embed", "blocks.0.attn.qkv.bias", "norm.weight"} <= set(state)
    assert not [name for name in state if name.startswith(("student", "painter"))]
    encoder = vistill.export(mae_run, out=tmp_path / "encoder", format="mae")
    assert not [n for n in torch.load(encoder[0])["model"] if n.startswith(("decoder", "mask"))]
    ours = vistill.load_backbone(mae_run / "export" / "last")
    # No published tensor tells the heads of so small a model.
    again = vistill.load_backbone(f"file:{tmp_path}/checkpoint.pth,num_heads={ours.num_heads[0]}")
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())

    assert main(["export", str(mae_run), "--out", str(tmp_path / "x"), "--format", "videomae"]) == 2
    assert "models of clips" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
