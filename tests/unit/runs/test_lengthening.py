"""A finished run that gets more epochs goes on from its end, whatever happens on the way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vistill
from vistill.batch import Batch, Losses
from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.errors import UserError
from vistill.runs.lengthening import lengthening
from vistill.stopping import Interrupted
from vistill.training.learner import Learner
from vistill.training.schedule import learning_rate

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"
PER_EPOCH = 3
SETTINGS: dict[str, Any] = {
    "student.model": "vit",
    "student.embed_dim": 16,
    "student.depth": 1,
    "student.num_heads": 2,
    "student.patch_size": 8,
    "student.drop_path": 0.2,
    "method.decoder.embed_dim": 16,
    "method.decoder.depth": 1,
    "method.decoder.num_heads": 2,
    "data.image_size": 16,
    "data.workers": 0,
    "data.held_out": 0.1,
    "train.device": "cpu",
    "train.loggers": [],
    "train.global_batch_size": 8,
    "train.knn_probe": False,
    "optim.lr": 1e-3,
    "optim.min_lr": 4e-5,
    "optim.warmup_epochs": 1,
}


def pretrain(out: Path, epochs: int, **words: Any) -> Any:
    settings = SETTINGS | {"train.epochs": epochs} | words
    return vistill.pretrain("mae", data=CELLS, out=out, overrides=settings)


def state_of(out: Path) -> tuple[dict[str, torch.Tensor], list[tuple[int, float]], Any]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [(row["step"], row["lr"]) for row in rows if row["step"] % PER_EPOCH == 0]
    newest = sorted((out / "checkpoints").iterdir())[-1]
    saved = torch.load(newest, weights_only=True)
    return load_file(out / "export" / "last" / "model.safetensors"), lines, saved["optimizer"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples in the order of training."""
    seen: list[int] = []
    real = Learner.accumulate

    def accumulate(self: Learner, batch: Batch, share: int, *, last: bool) -> Losses:
        seen.extend(batch.ids.tolist())
        return real(self, batch, share, last=last)

    monkeypatch.setattr(Learner, "accumulate", accumulate)
    return seen


@pytest.mark.slow
def test_goes_on_from_its_end_also_when_killed_on_the_way(
    tmp_path: Path,
    shown: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed, straight = (tmp_path / name for name in ("whole", "killed", "straight"))
    pretrain(whole, 2)
    pretrain(killed, 2)
    before = state_of(whole)[1]
    del shown[:]
    capsys.readouterr()
    result = pretrain(whole, 5)
    assert result.epochs == 5
    assert result.steps == 5 * PER_EPOCH
    ended = learning_rate(1 + 2 / 3, lr=1e-3, min_lr=4e-5, warmup_epochs=1, epochs=2)
    goes_on = learning_rate(2, lr=1e-3, min_lr=4e-5, warmup_epochs=1, epochs=5)
    told = (
        f"note     {whole}: lengthened from 2 to 5 epochs: the learning rate, which had ended at "
        f"{ended:.3g} at step 6, rises with the longer schedule: {goes_on:.3g} at step 7"
    )
    assert told in capsys.readouterr().out
    rest = list(shown)
    weights, lines, optimizer = state_of(whole)
    assert lines[:2] == before
    assert [step for step, _ in lines] == [3, 6, 9, 12, 15]
    assert lines[2][1] == pytest.approx(
        learning_rate(2 + 2 / 3, lr=1e-3, min_lr=4e-5, warmup_epochs=1, epochs=5)
    )

    # Samples come as in a run of 5 epochs from the start: none twice in an epoch.
    del shown[:]
    pretrain(straight, 5)
    assert shown[2 * PER_EPOCH * 8 :] == rest
    for epoch in range(5):
        some = shown[epoch * PER_EPOCH * 8 :][: PER_EPOCH * 8]
        assert len(set(some)) == len(some) == 24

    # Killed in the third epoch, and resumed.
    count, real = 0, Learner.update

    def update(self: Learner, rate: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", update)
        with pytest.raises(Interrupted, match="step 10 of 15"):
            pretrain(killed, 5)
    with pytest.raises(UserError, match=r"of 5 epochs, which train\.epochs=2 cannot shorten"):
        pretrain(killed, 2)
    with pytest.raises(UserError, match="of 5 epochs that has not come to its end"):
        pretrain(killed, 6)
    pretrain(killed, 5)
    again, other_lines, other = state_of(killed)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert other_lines == lines
    assert all(
        torch.equal(values[key], other[name][key])
        for name, values in optimizer.items()
        for key in values
    )
    marker = json.loads((killed / "vistill.json").read_text())
    assert marker["ended"] == [2]
    assert marker["fingerprint"]["train"]["epochs"] == 5
    assert "epochs: 5" in (killed / "config.yaml").read_text()


def test_only_a_finished_run_and_only_its_epochs(tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(out, 2)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"another configuration \(optim.lr"):
        pretrain(out, 3, **{"optim.lr": 2e-3})
    with pytest.raises(UserError, match=r"train\.epochs=1 cannot shorten"):
        pretrain(out, 1)
    vistill.pretrain(
        "mae", data=CELLS, out=out, overrides=SETTINGS | {"train.epochs": 3}, dry_run=True
    )
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("schedule", "way"),
    [("cosine", "rises"), ("poly", "rises"), ("step", "stays"), ("cyclic", "rises")],
)
def test_what_the_schedule_makes_of_it(schedule: Any, way: str) -> None:
    optim = OptimConfig(schedule=schedule, warmup_epochs=0, lr=1.0, step_epochs=50)
    marker = {"fingerprint": {"train": {"epochs": 30}}}
    told = lengthening(marker, optim, TrainConfig(epochs=40), 10)
    assert told is not None
    assert f"at step 300, {way} with the longer schedule" in told
    assert "at step 301" in told
    assert lengthening(marker, optim, TrainConfig(epochs=30), 10) is None
    assert lengthening(None, optim, TrainConfig(epochs=30), 10) is None
