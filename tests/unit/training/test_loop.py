"""The loop on a tiny method: what is trained, when things happen, how it stops."""

import json
import math
import os
import signal
from contextlib import ExitStack

import pytest
import torch
from tiny_run import (
    SGD,
    Queue,
    SyntheticStream,
    TinyMethod,
    open_run,
    optim_config,
    train_config,
)
from torch import nn

from vistill.errors import Failure, UserError
from vistill.random import step_seed
from vistill.stopping import Interrupted
from vistill.training.distributed import World
from vistill.training.errors import TrainingError
from vistill.training.learner import Learner
from vistill.training.loop import fit


def run_fit(method=None, stream=None, run=None, train=None, optim=None, **options):
    return fit(
        method or TinyMethod(),
        stream or SyntheticStream(),
        optim=optim or optim_config(),
        train=train or train_config(),
        seed=0,
        run=run,
        **({"progress": False, "log_seconds": 0.0} | options),
    )


def weights(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def state_of(method):
    values = [torch.as_tensor(value).flatten() for value in method.rank_state().values()]
    return torch.cat([torch.zeros(0), *values])


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def same(a, b, **tolerance):
    for name in a.keys() - {"seen"}:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def test_learns_and_reports(tmp_path):
    run = open_run(tmp_path / "run")
    result = run_fit(run=run, train=train_config(epochs=8))
    logged = lines(run)
    assert [line["step"] for line in logged] == list(range(1, 25))
    assert logged[-1]["loss"] < 0.9 * logged[0]["loss"]
    assert (result.steps, result.epochs) == (24, 8)
    last_epoch = [line["loss"] for line in logged[-3:]]
    assert result.terms["loss"] == pytest.approx(sum(last_epoch) / 3)
    for line in logged:
        assert line["loss"] == pytest.approx(line["loss/mse"] + 0.1 * line["loss/l1"], rel=1e-5)
        assert {"lr", "grad_norm", "images_per_second", "data_wait", "memory_gb"} <= line.keys()


class Told(TinyMethod):
    """Remembers what it is told of the run's progress."""

    def __init__(self) -> None:
        super().__init__()
        self.told = []

    def reached(self, progress):
        self.told.append(progress)


def test_a_method_is_told_how_far_the_run_is(tmp_path):
    """By the step's number alone, in a run that was resumed as in one that was not."""
    run, train = open_run(tmp_path / "run"), train_config(epochs=4, checkpoint_steps=1)
    first, second = Told(), Told()
    with pytest.raises(TrainingError):
        run_fit(first, SyntheticStream(poison=5), run, train)
    run_fit(second, SyntheticStream(), run, train)
    assert first.told == [step / 12 for step in range(len(first.told))]
    assert second.told == [step / 12 for step in range(12 - len(second.told), 12)]
    assert len(second.told) < 12


def test_closes_the_stream_even_after_a_fault():
    for poison in (None, 2):
        stream = SyntheticStream(poison=poison)
        try:
            run_fit(stream=stream)
        except TrainingError:
            assert poison is not None
        assert stream.closed


def test_learning_rate_of_every_step(tmp_path):
    run = open_run(tmp_path / "run")
    run_fit(run=run, optim=optim_config(lr=0.4, warmup_epochs=1.0, min_lr=0.1))
    rates = [line["lr"] for line in lines(run)]
    assert rates[:3] == pytest.approx([0.0, 0.4 / 3, 0.8 / 3])
    assert rates[3] == pytest.approx(0.4)
    assert rates[6] == pytest.approx(0.1 + 0.3 * 0.5 * (1 + math.cos(math.pi * 0.5)))


def test_schedules_reach_every_step(tmp_path, monkeypatch):
    """3 epochs of 3 steps: drops between epochs, the weight decay at every step."""
    run, decays = open_run(tmp_path / "run"), []
    real = Learner.update

    def update(self, rate):
        decays.append([group["weight_decay"] for group in self.optimizer.param_groups])
        return real(self, rate)

    monkeypatch.setattr(Learner, "update", update)
    chosen = {"schedule": "multistep", "milestones": (1, 2), "gamma": 0.5, "warmup_epochs": 0.0}
    decay = {"weight_decay": 0.0, "weight_decay_end": 0.2}
    run_fit(run=run, optim=optim_config(lr=0.4, **chosen, **decay))
    assert [line["lr"] for line in lines(run)] == pytest.approx([0.4] * 3 + [0.2] * 3 + [0.1] * 3)
    expected = [0.1 * (1 - math.cos(math.pi * step / 9)) for step in range(9)]
    assert [line["weight_decay"] for line in lines(run)] == pytest.approx(expected)
    assert [max(found) for found in decays] == pytest.approx(expected)
    assert [min(found) for found in decays] == [0.0] * 9


def test_default_rate_scales_with_the_global_batch(tmp_path):
    run = open_run(tmp_path / "run")
    run_fit(run=run, optim=optim_config(lr=None, base_lr=0.32, warmup_epochs=0.0))
    assert lines(run)[0]["lr"] == pytest.approx(0.32 * 8 / 256)


def test_accumulation_is_the_whole_batch():
    """By SGD: AdamW would not notice that losses are added instead of averaged."""
    whole, parts, start = (weights(TinyMethod(dropout=0)) for _ in range(3))
    for found, micro in ((whole, None), (parts, 2)):
        method = TinyMethod(dropout=0)
        run_fit(method, SyntheticStream(micro_batch_size=micro), optim=SGD)
        found.update(weights(method))
    same(whole, parts, atol=1e-6, rtol=1e-5)
    moved = (whole["head.weight"] - start["head.weight"]).abs().max()
    assert moved > 0.01


def test_a_step_of_sgd_is_the_gradient_of_the_mean_loss(tmp_path):
    """Weights after every step by hand, of the batches that the stream gives."""
    optim = optim_config(
        optimizer="sgd", momentum=0.5, lr=0.3, min_lr=0.1, warmup_epochs=1.0, weight_decay=0.01
    )
    method, own = TinyMethod(dropout=0), TinyMethod(dropout=0)
    run = open_run(tmp_path / "run")
    run_fit(method, SyntheticStream(micro_batch_size=4), run, optim=optim)
    speed = {name: torch.zeros_like(p) for name, p in own.named_parameters()}
    for step, batch in enumerate(SyntheticStream().iterate(0, 9)):
        rate = 0.3 * step / 3
        if step >= 3:
            rate = 0.1 + 0.2 * 0.5 * (1 + math.cos(math.pi * (step - 3) / 6))
        loss = own(batch).total
        loss.backward()
        gradients = {n: p.grad for n, p in own.named_parameters() if p.grad is not None}
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        logged = lines(run)[step]
        assert (logged["loss"], logged["grad_norm"], logged["lr"]) == pytest.approx(
            (loss.item(), norm.item(), rate), rel=1e-4
        )
        with torch.no_grad():
            for name, parameter in own.named_parameters():
                if name in gradients:
                    decay = 0.01 if parameter.ndim > 1 else 0.0
                    speed[name].mul_(0.5).add_(gradients[name] + decay * parameter)
                    parameter -= rate * speed[name]
                parameter.grad = None
    same(weights(method), weights(own), atol=1e-5, rtol=1e-4)


def test_micro_batches_draw_for_themselves():
    """A foreign model's dropout in the second micro-batch is not that of the first."""
    method, drawn = TinyMethod(dropout=0.5), []
    method.student.dropout.register_forward_hook(lambda _, args, out: drawn.append(out == 0))
    run_fit(method, SyntheticStream(micro_batch_size=4), train=train_config(epochs=1))
    steps = drawn[2:]  # two blocks; the first pass finds out what gets a gradient
    assert len(steps) == 2 * 2 * 3
    assert not torch.equal(steps[0], steps[2])


def test_pictures_per_second_are_pictures(tmp_path):
    run = open_run(tmp_path / "run")
    result = run_fit(run=run)
    seconds = sum(8 / line["images_per_second"] for line in lines(run))
    assert result.images_per_second == pytest.approx(72 / seconds)
    assert result.seconds > seconds  # with 1/8 of the pictures it would be eight times as much


def test_the_peak_may_belong_to_the_warm_up(tmp_path):
    run = open_run(tmp_path / "run")
    run_fit(run=run, optim=optim_config(lr=0.4, warmup_epochs=1.0, peak_in_warmup=True))
    assert [line["lr"] for line in lines(run)[:4]] == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_the_first_of_two_faults_is_told(tmp_path):
    class Poisoned(SyntheticStream):
        def batch(self, ids, epoch, step):
            batch = super().batch(ids, epoch, step)
            if step >= 1:
                batch.pixels[0, 0, 0, 0] = float("nan")
            return batch

    with pytest.raises(TrainingError, match="not finite at step 2,"):
        run_fit(stream=Poisoned(), log_seconds=100.0)


def test_fp16_clips_what_it_steps_by():
    """Gradients are brought back from the loss scale before they are clipped."""
    found = []
    for precision in ("fp32", "fp16"):
        method = TinyMethod(dropout=0)
        run_fit(
            method,
            train=train_config(precision=precision),
            optim=SGD.model_copy(update={"clip_norm": 1e-2}),
        )
        found.append(weights(method))
    start = weights(TinyMethod(dropout=0))
    same(*found, atol=2e-3, rtol=0.05)
    assert (found[0]["head.weight"] - start["head.weight"]).norm() > 5e-3


def test_unreached_parameters_and_teacher_stay(tmp_path):
    method = TinyMethod()
    nn.init.normal_(method.student.norm.weight)
    before, teacher = weights(method), [p.clone() for p in method.teacher.parameters()]
    run_fit(method, optim=optim_config(weight_decay=0.5))
    after = weights(method)
    assert torch.equal(before["student.norm.weight"], after["student.norm.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert all(map(torch.equal, teacher, method.teacher.parameters()))
    assert all(p.requires_grad for p in method.parameters())


def test_groups_scale_the_rate_and_lose_frozen_parameters():
    method = TinyMethod()
    before = weights(method)
    groups = [
        {"params": list(method.student.parameters()), "lr_scale": 0.0},
        {"params": list(method.head.parameters())},
    ]
    run_fit(method, groups=groups, optim=optim_config(weight_decay=0.0))
    after = weights(method)
    assert torch.equal(before["student.patch_embed.weight"], after["student.patch_embed.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_layer_decay_of_pretraining():
    method = TinyMethod()
    before = weights(method)
    run_fit(method, optim=optim_config(layer_decay=1e-9, weight_decay=0.0))
    after = weights(method)
    name = "student.patch_embed.weight"
    torch.testing.assert_close(before[name], after[name], atol=1e-7, rtol=0)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_clipping_bounds_the_step_but_logs_the_norm(tmp_path):
    run = open_run(tmp_path / "run")
    run_fit(run=run, optim=optim_config(clip_norm=1e-12, eps=1.0, weight_decay=0.0))
    logged = lines(run)
    assert logged[0]["grad_norm"] > 0.1
    # Adam with eps 1 moves by about the clipped gradient: nowhere.
    assert logged[-1]["loss"] == pytest.approx(logged[0]["loss"], rel=0.2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_stays_near_fp32(precision):
    exact, rough = TinyMethod(dropout=0), TinyMethod(dropout=0)
    seen = []
    head = rough.head
    head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    run_fit(exact)
    run_fit(rough, train=train_config(precision=precision))
    assert seen[-1] == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert all(p.dtype == torch.float32 for p in rough.parameters())
    same(weights(exact), weights(rough), atol=0.05, rtol=0.1)


def test_fp16_that_always_overflows_stops():
    method = TinyMethod()
    method.head.register_full_backward_hook(lambda m, gi, go: tuple(g * 1e30 for g in gi))
    with pytest.raises(TrainingError, match="bf16"):
        run_fit(method, train=train_config(precision="fp16", epochs=20))


def test_activation_checkpointing_recomputes_with_the_same_result():
    plain, recomputed = TinyMethod(), TinyMethod()
    calls = {plain: 0, recomputed: 0}

    def count(method):
        def hook(*args):
            calls[method] += 1

        method.student.blocks[0].register_forward_pre_hook(hook)

    count(plain)
    count(recomputed)
    run_fit(plain)
    run_fit(recomputed, train=train_config(activation_checkpointing=True))
    same(weights(plain), weights(recomputed), atol=0, rtol=0)
    assert (calls[plain], calls[recomputed]) == (10, 20)
    assert recomputed.student.activation_checkpointing is False


def test_activation_checkpointing_needs_a_backbone_that_can():
    method = TinyMethod()
    del method.student.activation_checkpointing
    with pytest.raises(UserError, match="TinyBackbone"):
        run_fit(method, train=train_config(activation_checkpointing=True))


def test_evaluation_decides_the_best(tmp_path):
    run, exports, epochs = open_run(tmp_path / "run"), [], []
    losses = {2: 0.5, 4: 0.3, 5: 0.4}

    def evaluate(epoch):
        epochs.append(epoch)
        return {"held_out_loss": losses[epoch], "knn": 0.9}

    train = train_config(epochs=5, evaluate_every=2)
    result = run_fit(
        run=run, train=train, on_evaluate=evaluate, on_export=lambda _, which: exports.append(which)
    )
    assert epochs == [2, 4, 5]
    assert exports == ["last", "best", "last", "best", "last"]
    assert (result.best.metric, result.best.value, result.best.epoch) == ("held_out_loss", 0.3, 4)
    logged = {line["step"]: line.get("held_out_loss") for line in lines(run)}
    assert {step: v for step, v in logged.items() if v} == {6: 0.5, 12: 0.3, 15: 0.4}


def test_knn_decides_where_there_is_no_held_out_loss():
    accuracy = {1: 0.2, 2: 0.6, 3: 0.6}
    result = run_fit(on_evaluate=lambda epoch: {"knn": accuracy[epoch]})
    assert (result.best.metric, result.best.epoch) == ("knn", 2)


def test_without_evaluation_last_is_best():
    exports = []
    result = run_fit(on_export=lambda _, which: exports.append(which))
    assert exports == ["last", "last", "last", "best"]
    assert result.best is None


def test_nan_stops_names_its_samples_and_is_never_saved(tmp_path):
    run = open_run(tmp_path / "run")
    stream = SyntheticStream(poison=4)
    bad = next(stream.iterate(4, 5)).ids.tolist()
    with pytest.raises(TrainingError, match="step 5") as caught:
        # Reports far apart: the fault is found in time all the same, at the end of the epoch.
        run_fit(stream=stream, run=run, log_seconds=100.0)
    assert ", ".join(map(str, bad)) in str(caught.value)
    told = json.loads((run.path / "non_finite.json").read_text())
    assert told == {"step": 5, "ids": bad}
    saved = [torch.load(p)["state"]["step"] for p in run.checkpoints.iterdir()]
    assert saved == [3]


def test_signal_saves_and_resumes_to_the_same_weights(tmp_path):
    whole, run = TinyMethod(), open_run(tmp_path / "run")
    run_fit(whole)
    handler = signal.getsignal(signal.SIGTERM)

    class Signalled(SyntheticStream):
        def batch(self, ids, epoch, step):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(ids, epoch, step)

    with pytest.raises(Interrupted, match="step 5 of 9") as caught:
        run_fit(stream=Signalled(), run=run)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    resumed = TinyMethod(seed=9)
    teacher = TinyMethod().teacher
    resumed.teacher.load_state_dict(teacher.state_dict())
    run_fit(resumed, run=open_run(tmp_path / "run"))
    same(weights(whole), weights(resumed), atol=0, rtol=0)
    assert [line["step"] for line in lines(run)] == list(range(1, 10))


def test_signal_at_the_end_of_an_epoch_evaluates_after_the_resume(tmp_path):
    run, epochs = open_run(tmp_path / "run"), []

    class Signalled(SyntheticStream):
        def batch(self, ids, epoch, step):
            if step == 8:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(ids, epoch, step)

    def evaluate(epoch):
        epochs.append(epoch)
        return {"held_out_loss": 0.1}

    with pytest.raises(Interrupted) as caught:
        run_fit(stream=Signalled(), run=run, on_evaluate=evaluate)
    assert (caught.value.exit_code, epochs) == (130, [1, 2])
    result = run_fit(run=open_run(tmp_path / "run"), on_evaluate=evaluate)
    assert epochs == [1, 2, 3]
    assert result.terms["loss"] > 0
    logged = lines(run)
    assert [line["step"] for line in logged] == list(range(1, 10))
    assert {"loss", "held_out_loss"} <= logged[-1].keys()


@pytest.mark.parametrize(
    ("losses", "best", "doubt"),
    [
        ([4e9, 4e9, 4e9], None, "held_out_loss 4e+09 is more than 10 times the loss of the first"),
        ([math.nan, math.nan, math.nan], None, "held_out_loss is nan"),
        ([math.inf, 0.4, math.inf], 0.4, "held_out_loss is inf"),
        ([math.inf, 0.4, 0.5], 0.4, None),
        ([0.6, 0.4, 4e9], 0.4, "held_out_loss 4e+09 is more than 10 times"),
        ([0.6, 0.5, 0.4], 0.4, None),
    ],
)
def test_a_loss_that_blew_up_is_told_and_is_not_the_best(tmp_path, capsys, losses, best, doubt):
    exported = []
    result = run_fit(
        run=open_run(tmp_path / "run"),
        on_evaluate=lambda epoch: {"held_out_loss": losses[epoch - 1]},
        on_export=lambda name, which: exported.append(which),
        progress=True,
    )
    told = capsys.readouterr().err
    assert (None if result.best is None else result.best.value) == best
    assert "best" in exported  # without a usable number the last weights
    if doubt is None:
        assert result.doubts == {}
    else:
        assert result.doubts[""].startswith(doubt)
        assert f"epoch 3: {result.doubts['']}; it cannot be the best" in told
    usable = [loss for loss in losses if loss < 1]
    assert exported.count("best") == max(1, len({min(usable[: n + 1]) for n in range(len(usable))}))


def test_a_first_loss_of_another_target_makes_no_doubt(tmp_path):
    method = TinyMethod()
    method.targets_change = True
    losses = {1: 4e9, 2: 3e9, 3: 2e9}
    run = open_run(tmp_path / "run")
    result = run_fit(method, run=run, on_evaluate=lambda epoch: {"held_out_loss": losses[epoch]})
    assert result.doubts == {}
    assert result.best.value == 2e9


class Starved(SyntheticStream):
    """Gives so many micro-batches and then raises."""

    def __init__(self, given, error):
        super().__init__(micro_batch_size=2)
        self.given, self.error = given, error

    def iterate(self, start_step, stop_step):
        for number, batch in enumerate(super().iterate(start_step, stop_step)):
            if number == self.given:
                raise self.error
            yield batch


@pytest.mark.parametrize("given", [12, 14])  # between two steps, and in the middle of one
@pytest.mark.parametrize("log_seconds", [0.0, pytest.param(1000.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("error", "ends_with", "text"),
    [
        (Failure("a.jpg has not been read"), TrainingError, "a.jpg has not been read; stopped"),
        (Interrupted("interrupted", 15), Interrupted, "stopped after step 3 of 9"),
        (UserError("9 are broken"), UserError, "9 are broken; stopped after step 3 of 9"),
    ],
)
@pytest.mark.parametrize("kind", [TinyMethod, Queue])
def test_without_a_batch_everything_done_is_saved(
    tmp_path, given, log_seconds, error, ends_with, text, kind
):
    run, whole, undisturbed = open_run(tmp_path / "a"), kind(), open_run(tmp_path / "b")
    expected = run_fit(whole, SyntheticStream(micro_batch_size=2), undisturbed)
    with pytest.raises(ends_with, match=text) as told:
        run_fit(kind(), Starved(given, error), run=run, log_seconds=log_seconds)
    assert f"saved in {run.path}, and the same command continues" in str(told.value)
    assert (run.checkpoints / "step-00000003.pt").exists()
    resumed = kind()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    result = run_fit(resumed, SyntheticStream(micro_batch_size=2), open_run(tmp_path / "a"))
    assert result.terms == pytest.approx(expected.terms)
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # and buffers
    assert torch.equal(state_of(resumed), state_of(whole))
    assert lines(run)[-1]["loss"] == lines(undisturbed)[-1]["loss"]


def test_an_evaluation_that_cannot_read_is_made_up_for(tmp_path):
    run, whole, epochs = open_run(tmp_path / "a"), TinyMethod(), []

    def evaluate(epoch):
        epochs.append(epoch)
        if epochs == [1, 2]:
            raise Failure("a.jpg has not been read")
        return {"held_out_loss": 1.0 / epoch}

    expected = run_fit(whole, on_evaluate=lambda epoch: {"held_out_loss": 1.0 / epoch})
    with pytest.raises(TrainingError, match=r"a\.jpg has not been read; stopped after step 6 of 9"):
        run_fit(run=run, on_evaluate=evaluate)
    resumed = TinyMethod(seed=9)
    resumed.teacher.load_state_dict(TinyMethod().teacher.state_dict())
    result = run_fit(resumed, run=open_run(tmp_path / "a"), on_evaluate=evaluate)
    assert epochs == [1, 2, 2, 3]
    same(weights(whole), weights(resumed), atol=0, rtol=0)
    assert (result.best, result.terms) == (expected.best, pytest.approx(expected.terms))
    assert [line["step"] for line in lines(run)] == list(range(1, 10))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    first, run = TinyMethod(), open_run(tmp_path / "run")
    result = run_fit(first, run=run, on_evaluate=lambda epoch: {"knn": 0.5})
    again, epochs = TinyMethod(seed=5), []
    repeated = run_fit(again, run=open_run(tmp_path / "run"), on_evaluate=epochs.append)
    same(weights(first), weights(again), atol=0, rtol=0)
    assert epochs == []
    assert (repeated.terms, repeated.best) == (result.terms, result.best)


def test_a_step_does_not_depend_on_history():
    assert len({step_seed(0, step, rank) for step in range(50) for rank in range(2)}) == 100
    torch.manual_seed(1)
    first, second = TinyMethod(), TinyMethod()
    run_fit(first)
    torch.manual_seed(2)
    run_fit(second, on_evaluate=lambda epoch: {"x": torch.rand(()).item()})
    same(weights(first), weights(second), atol=0, rtol=0)


@pytest.mark.slow
def test_compiled_agrees():
    plain, compiled = TinyMethod(dropout=0), TinyMethod(dropout=0)
    run_fit(plain)
    run_fit(compiled, train=train_config(compile=True))
    same(weights(plain), weights(compiled), atol=1e-5, rtol=1e-4)
    assert "tap" not in vars(compiled.teacher)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and pytest -m gpu")
def test_no_step_waits_for_the_device():
    class Watched(SyntheticStream):
        def iterate(self, start, stop):
            # Reports, which may wait, come after steps 1, 5 and 10.
            modes = {6: "error", 9: "default"}
            for number, batch in enumerate(super().iterate(start, stop)):
                torch.cuda.set_sync_debug_mode(modes.get(number, torch.cuda.get_sync_debug_mode()))
                yield batch

    try:
        train = train_config(epochs=1, device="cuda", precision="fp16")
        run_fit(stream=Watched(samples=80), train=train, log_seconds=1e9)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_exemptions_from_weight_decay(layer_decay):
    """Those of the method, those of the settings, biases and norms; decaying layers or not."""

    class Exempt(TinyMethod):
        no_decay = ("head",)

    method = Exempt()
    optim = optim_config(layer_decay=layer_decay, no_decay=("patch_embed",), weight_decay=0.3)
    sample = next(SyntheticStream().iterate(0, 1))
    with ExitStack() as cleanup:
        learner = Learner(
            method,
            [sample],
            optim=optim,
            train=train_config(),
            groups=None,
            world=World(0, 1, torch.device("cpu")),
            cleanup=cleanup,
        )
        names = {parameter: name for name, parameter in method.named_parameters()}
        decays = {
            names[parameter]
            for group in learner.optimizer.param_groups
            for parameter in group["params"]
            if group["weight_decay"]
        }
    assert decays == {"student.blocks.0.fc.weight", "student.blocks.1.fc.weight"}


def flattening(epoch):
    """A probe that has learned nearly all after a few epochs, and scatters."""
    return {"knn": 70 - 40 / epoch**3 + 0.5 * math.sin(7.0 * epoch)}


def test_a_run_that_gains_nothing_ends_and_may_go_on_later(tmp_path, capsys):
    config = {"epochs": 40, "stop_when": "flat"}
    run, told = open_run(tmp_path / "run"), []
    first = run_fit(
        run=run,
        train=train_config(**config),
        on_evaluate=flattening,
        on_export=lambda name, which: told.append(which),
        progress=True,
    )
    assert 6 <= first.epochs < 40
    assert first.steps == 3 * first.epochs
    shown = capsys.readouterr().err
    assert f"epoch {first.epochs}: up to epoch 40 knn gains" in shown
    assert "so the run ends (train.stop_when=flat)" in shown
    assert told.count("last") == first.epochs
    assert [epoch for epoch, _ in first.curves["knn"]] == list(range(1, first.epochs + 1))

    again = run_fit(run=run, train=train_config(**config), on_evaluate=flattening)
    assert (again.steps, again.curves) == (first.steps, first.curves)
    whole = run_fit(run=run, train=train_config(epochs=40), on_evaluate=flattening)
    assert whole.epochs == 40


def test_a_run_that_still_learns_goes_to_its_end(tmp_path):
    curve = lambda epoch: {"knn": 10 + epoch + 0.2 * math.sin(7.0 * epoch)}  # noqa: E731
    result = run_fit(train=train_config(epochs=14, stop_when="flat"), on_evaluate=curve)
    assert result.epochs == 14


def test_one_student_that_learns_keeps_the_run_going():
    def both(epoch):
        return {"a/knn": flattening(epoch)["knn"], "b/held_out_loss": 1 / epoch**0.5}

    result = run_fit(train=train_config(epochs=20, stop_when="flat"), on_evaluate=both)
    assert result.epochs == 20
