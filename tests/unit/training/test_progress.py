"""What is printed, and where metrics go besides JSON lines."""

import io
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tiny_run import SyntheticStream, TinyMethod, open_run, optim_config, train_config

from vistill.errors import UserError
from vistill.training.errors import TrainingError
from vistill.training.loggers import JsonLines, open_loggers, require_loggers
from vistill.training.loop import fit
from vistill.training.progress import Meter, duration, status


def train(run, **options):
    return fit(
        TinyMethod(),
        SyntheticStream(),
        optim=optim_config(),
        train=train_config(**options),
        seed=0,
        run=run,
        log_seconds=0.0,
    )


def test_duration():
    assert duration(3723.4) == "1:02:03"
    assert duration(2 * 86400 + 59.6) == "2d 0:01:00"


def test_status_names_everything_a_user_asks_for():
    values = {
        "loss": 1.23456,
        "loss/qk": 0.5,
        "grad_norm": 2.0,
        "lr": 1.5e-4,
        "images_per_second": 512.3,
        "data_wait": 0.031,
        "memory_gb": 3.14,
    }
    assert status(values, 3723, "2 broken") == (
        "loss 1.235 (qk 0.5) · lr 1.50e-04 · 512 img/s · data wait 3% · mem 3.1 GB · "
        "ETA 1:02:03 · 2 broken"
    )


def test_plain_lines_without_a_terminal(capsys):
    train(None)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert "2 parameters get no gradient" in lines[0]
    assert lines[1].startswith("epoch 1/3 · step 1/9 · loss ")
    assert lines[-1].startswith("epoch 3/3 · step 9/9 · loss ")
    assert len(lines) == 3


def test_a_live_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    meter = Meter(0, 3, "videos")
    meter.update(2, "1.5 videos/s · ETA 0:00:01")
    meter.close()
    shown = terminal.getvalue()
    assert "\x1b[" in shown  # it is drawn over
    assert "2/3" in shown
    assert "1.5 videos/s" in shown


def test_silence(capsys):
    fit(
        TinyMethod(),
        SyntheticStream(),
        optim=optim_config(),
        train=train_config(),
        seed=0,
        progress=False,
    )
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_run(tmp_path / "run")
    train(run, loggers=("tensorboard",))
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 10))
    assert {"loss/mse", "lr", "grad_norm"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_absent_extra_is_one_sentence(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install vistill\[{name}\]"):
        require_loggers(("tensorboard", name))
    require_loggers(("tensorboard",))


def test_wandb_and_mlflow_continue_their_runs(monkeypatch, tmp_path):
    started, logged, ended = [], [], []
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    remote = SimpleNamespace(
        log=lambda values, step: logged.append(("wandb", step, values["loss"])),
        finish=lambda: ended.append("wandb"),
    )
    wandb.util = SimpleNamespace(generate_id=lambda: "abc")
    wandb.init = lambda **options: started.append((options["id"], options["resume"])) or remote
    mlflow.start_run = lambda **options: (
        started.append(options) or SimpleNamespace(info=SimpleNamespace(run_id="xyz"))
    )
    mlflow.log_metrics = lambda values, step: logged.append(("mlflow", step, values["loss"]))
    mlflow.end_run = lambda: ended.append("mlflow")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)

    run = open_run(tmp_path / "run")
    for _ in range(2):
        for logger in open_loggers(run, ("wandb", "mlflow"), 0):
            logger.log(3, {"loss": 0.5})
            logger.close()
    assert started == [("abc", "allow"), {"run_name": "run"}, ("abc", "allow"), {"run_id": "xyz"}]
    assert logged == 2 * [("wandb", 3, 0.5), ("mlflow", 3, 0.5)]
    assert ended == 2 * ["wandb", "mlflow"]


def test_metrics_that_cannot_be_written_are_a_clear_error(tmp_path):
    run = open_run(tmp_path / "run")
    run.metrics.symlink_to("/dev/full")
    log = JsonLines(run)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: No space left"):
        log.log(1, {"loss": 0.5})
    log.close()


def test_json_lines_append(tmp_path):
    run = open_run(tmp_path / "run")
    for step in (1, 2):
        log = JsonLines(run)
        log.log(step, {"loss": step / 2})
        log.close()
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
