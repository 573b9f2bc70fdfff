"""The learning rate that the training loop itself sets is feature distillation's published one."""

from pathlib import Path

import pytest

from vistill.config.loading import load_config
from vistill.config.overrides import parse_overrides
from vistill.training import loop
from vistill.training.learner import Learner
from vistill.training.state import State


class EnoughError(Exception):
    """The step that was asked for has had its rate."""


def rate_in_the_loop(monkeypatch, optim, train, per_epoch: int, step: int) -> float:
    """What the loop gives to the optimiser at `step`, counted from 0."""
    import tiny_run

    rates = []

    def update(self, rate):
        rates.append(rate(1.0))
        raise EnoughError

    monkeypatch.setattr(Learner, "update", update)
    monkeypatch.setattr(loop, "State", lambda: State(step=step))
    stream = tiny_run.SyntheticStream(samples=2 * per_epoch, global_batch_size=2)
    method = tiny_run.TinyMethod()
    with pytest.raises(EnoughError):
        loop.fit(method, stream, optim=optim, train=train, seed=0, progress=False)
    return rates[0]


def test_feature_distillation(golden, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "unit" / "training"))
    case = golden("schedule_pretrain_vitb", "fd")
    per_epoch = case.config["iters_per_epoch"]
    config = load_config("fd_clip_base", parse_overrides(["train.device=cpu"]))
    rates = []
    for step, (expected,) in case.info["lr_at_step"].items():
        if step == "0":
            continue  # the published schedule runs one step behind: its steps 0 and 1 are alike
        found = rate_in_the_loop(
            monkeypatch, config.optim, config.train, per_epoch, step=int(step) - 1
        )
        assert found == pytest.approx(expected, rel=case.rtol, abs=case.atol)
        rates.append(found)
    assert len(rates) == 9
