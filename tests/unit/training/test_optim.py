"""Groups that golden files do not cover, AdamW's rates, and LARS's rules."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from vistill.config.loading import build_config
from vistill.config.optim import OptimConfig
from vistill.config.schema import RunConfig
from vistill.errors import UserError
from vistill.training.lars import LARS
from vistill.training.optim import (
    adamw,
    build_optimizer,
    layer_decay_groups,
    peak_lr,
    pretrain_groups,
    set_lr,
    set_weight_decay,
    trainable,
)
from vistill.training.schedule import decay_at, learning_rate, rate_at


def test_frozen_parameters_are_in_no_group():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    groups = pretrain_groups(module, 0.1)
    assert {p for g in groups for p in g["params"]} == set(module[1].parameters())
    decayed = layer_decay_groups(module, 0.1, 0.5, 1, layer_of=lambda _: 0)
    assert {p for g in decayed for p in g["params"]} == set(module[1].parameters())


def test_trainable_drops_frozen_parameters_and_empty_groups():
    frozen, free = nn.Parameter(torch.ones(1), requires_grad=False), nn.Parameter(torch.ones(1))
    groups = trainable([{"params": [frozen]}, {"params": [frozen, free], "lr_scale": 0.5}])
    assert groups == [{"params": [free], "lr_scale": 0.5}]


def test_layers_of_any_model():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    groups = layer_decay_groups(module, 0.1, 0.5, 3, layer_of=lambda name: int(name[0]), prefix="")
    assert [group["lr_scale"] for group in groups] == [0.5**4, 0.5**3]


def test_set_lr_honours_the_scale():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "lr_scale": 0.25}, {"params": parameters[1:]}]
    optimizer = adamw(groups, OptimConfig())
    set_lr(optimizer, 0.8)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.8]


def test_peak_rate():
    assert peak_lr(OptimConfig(base_lr=1.5e-4), 4096) == pytest.approx(2.4e-3)
    assert peak_lr(OptimConfig(lr=0.3), 4096) == 0.3


def test_no_warmup_starts_at_the_peak():
    assert learning_rate(0.0, lr=0.5, min_lr=0.1, warmup_epochs=0, epochs=10) == 0.5
    assert learning_rate(10.0, lr=0.5, min_lr=0.1, warmup_epochs=0, epochs=10) == 0.1


MILESTONES = (3, 5, 9)


def rates(epochs: int, **settings) -> list[float]:
    optim = OptimConfig(**settings)
    optim.fitting(epochs)
    found = []
    for epoch in range(epochs):
        for within in (0.0, 0.75):  # within an epoch nothing changes
            rate = rate_at(optim, epoch + within, peak=optim.lr, epochs=epochs, steps_per_epoch=4)
            found.append(rate)
        assert found[-1] == found.pop()
    return found


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_multistep_is_that_of_torch(gamma):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, MILESTONES, gamma)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    chosen = {"milestones": MILESTONES, "gamma": gamma, "warmup_epochs": 0}
    assert rates(12, schedule="multistep", lr=0.3, **chosen) == pytest.approx(expected)


def test_steps_follow_a_warm_up():
    found = rates(6, schedule="multistep", lr=1.0, milestones=(4,), warmup_epochs=2)
    assert found[2:] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    optim = OptimConfig(schedule="multistep", lr=1.0, milestones=(4,), warmup_epochs=2)
    assert rate_at(optim, 0.5, peak=1.0, epochs=6, steps_per_epoch=4) == 0.25


@pytest.mark.parametrize("epochs", [6, 12, 17, 90])
@pytest.mark.parametrize("schedule", ["cyclic", "1cycle", "3cycle", "linear", "step"])
def test_cycles_and_pieces_are_the_published_lines(schedule, epochs):
    """The published code interpolates factors of its `lr`, where a cycle begins, by `np.interp`."""
    peak, start, end = 0.3, 0.05, 5e-5
    s, n = start, epochs
    pieces = [(1, 0.5), (2, 2.0), (4.5, 0.0)]
    corners = {
        "cyclic": ([0, n * 4 // 15, n], [0, peak, 0]),
        "1cycle": ([0, n // 5 * 2, n // 5 * 4, n], [s, peak, s, end]),
        "3cycle": (
            [*(n // 6 * i for i in range(6)), n],
            [s, peak, s / 10, s * 10, s / 100, s, end],
        ),
        "linear": ([1, 2, 4.5], [0.15, 0.6, 0.0]),
    }
    if schedule == "step":
        expected = [0.3, 0.15, 0.6, 0.6, 0.6, *[0.0] * n][:n]
    else:
        expected = [float(np.interp(epoch, *corners[schedule])) for epoch in range(n)]
    chosen: dict = {"schedule": schedule}
    if schedule in ("1cycle", "3cycle"):
        chosen |= {"div_factor": peak / start, "min_lr": end}
    if schedule in ("linear", "step"):
        chosen = {"schedule": "piecewise", "pieces": pieces, "lr_interpolation": schedule}
    assert rates(n, lr=peak, **chosen) == pytest.approx(expected)


def test_cycles_by_hand():
    found = rates(12, schedule="3cycle", lr=1.0, div_factor=10, min_lr=0.0)
    expected = [0.1, 0.55, 1.0, 0.505, 0.01, 0.505, 1.0, 0.5005, 0.001, 0.0505, 0.1, 0.05]
    assert found == pytest.approx(expected)
    found = rates(10, schedule="1cycle", lr=1.0, div_factor=5, min_lr=0.1)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2, 0.15])


def test_weight_decay_goes_by_a_cosine():
    """From 0.04 to 0.4 as DINO; half of a cosine is the mean, a quarter (2 - √2) / 4 of the way."""
    optim = OptimConfig(weight_decay=0.04, weight_decay_end=0.4)
    found = [decay_at(optim, epoch, 8) for epoch in (0, 2, 4, 8)]
    assert found == pytest.approx([0.04, 0.04 + 0.36 * (2 - 2**0.5) / 4, 0.22, 0.4])
    assert decay_at(OptimConfig(weight_decay=0.04), 3.0, 8) is None


@pytest.mark.parametrize("layerwise", [False, True])
def test_weight_decay_of_a_step_leaves_exempt_parameters_alone(layerwise):
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    groups = pretrain_groups(module, 0.0)
    if layerwise:
        groups = layer_decay_groups(module, 0.0, 1.0, 0, layer_of=lambda _: 0, prefix="")
    optimizer, expected = adamw(groups, OptimConfig()), 1.0
    for decay in (0.1, 0.5):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        set_lr(optimizer, 0.2)
        set_weight_decay(optimizer, decay)
        optimizer.step()
        expected *= 1 - 0.2 * decay
    torch.testing.assert_close(module.weight.detach(), torch.full((2, 2), expected))
    assert torch.equal(module.bias.detach(), torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "epochs", "message"),
    [
        ({"schedule": "1cycle"}, 4, "needs at least 5 epochs, and the run has train.epochs=4"),
        ({"schedule": "3cycle"}, 5, "needs at least 6 epochs"),
        ({"schedule": "multistep"}, 9, "schedule=multistep needs milestones"),
        ({"schedule": "piecewise"}, 9, "schedule=piecewise needs pieces"),
        ({"schedule": "multistep", "milestones": (2, 10)}, 9, "optim.milestones has epoch 10"),
        ({"schedule": "piecewise", "pieces": ((0, 1), (9.5, 0))}, 9, "optim.pieces has epoch 9.5"),
        ({"schedule": "multistep", "milestones": (4, 2)}, 9, "must rise, but 2 follows 4"),
        ({"schedule": "piecewise", "pieces": ((4, 1), (4, 0))}, 9, "must rise, but 4 follows 4"),
    ],
)
def test_schedules_that_do_not_fit(settings, epochs, message):
    words = [*((f"optim.{k}", v) for k, v in settings.items()), ("train.epochs", epochs)]
    words += [("optim.warmup_epochs", 0)] * (settings["schedule"] == "multistep")
    with pytest.raises(UserError) as caught:
        build_config(RunConfig, {}, words)
    assert message in str(caught.value)


def test_lars_adapts_matrices_only():
    matrix, bias = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    optimizer = LARS([matrix, bias], lr=1.0, weight_decay=0.5)
    matrix.grad, bias.grad = torch.full((2, 2), 0.5), torch.full((2,), 0.5)
    optimizer.step()
    # ‖w‖ = 6 and ‖g + wd·w‖ = 4: the step is 0.001 · 6/4 · 2.
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 3.0 - 0.003))
    torch.testing.assert_close(bias.detach(), torch.full((2,), 2.5))


def test_lars_leaves_a_zero_matrix_its_plain_gradient():
    matrix = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([matrix], lr=0.1)
    matrix.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), -0.1))


def test_a_peak_of_its_own_leaves_the_ends_of_the_schedule_alone():
    """A student with ten times the peak warms up from, and ends at, the rates of all."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [parameters[0]]}, {"params": [parameters[1]], "peak_scale": 10.0}], lr=1.0
    )
    for epoch, expected in ((0, (0.25, 0.25)), (1, (1.0, 10.0)), (9.999999, (0.5, 0.5))):

        def rate(scale, epoch=epoch):
            return learning_rate(
                epoch, lr=scale, min_lr=0.5, warmup_lr=0.25, warmup_epochs=1, epochs=10
            )

        set_lr(optimizer, rate)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (
            {"eps": 1e-6, "betas": (0.8, 0.9)},
            lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-6, fused=True),
        ),
        (
            {"optimizer": "sgd", "momentum": 0.7},
            lambda groups: torch.optim.SGD(groups, momentum=0.7),
        ),
        (
            {"optimizer": "sgd", "momentum": 0.0},
            lambda groups: torch.optim.SGD(groups, momentum=0.0),
        ),
    ],
    ids=["adamw", "sgd", "sgd without momentum"],
)
def test_optimizers_are_torchs_to_the_bit(settings, theirs):
    def groups():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 2)) for _ in range(3)]
        return parameters, [
            {"params": parameters[:1], "weight_decay": 0.0},
            {"params": parameters[1:], "weight_decay": 0.3},
        ]

    (ours, our_groups), (others, other_groups) = groups(), groups()
    optimizer = build_optimizer(our_groups, OptimConfig(**settings))
    other = theirs(other_groups)
    for step in range(4):
        for pair in zip(ours, others, strict=True):
            gradient = None if step == 1 and pair[0] is ours[2] else torch.randn(3, 2)
            for parameter in pair:
                parameter.grad = None if gradient is None else gradient.clone()
        for each in (optimizer, other):
            set_lr(each, 0.1 / (step + 1))
            each.step()
        for a, b in zip(ours, others, strict=True):
            assert torch.equal(a, b)
            assert optimizer.state[a].keys() == other.state[b].keys()
            for key, value in optimizer.state[a].items():
                assert torch.equal(value, other.state[b][key])
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in ours)


def test_a_gradient_scaler_leaves_out_a_step_that_overflowed():
    """The steps of AdamW in half precision, as `torch.optim.AdamW` takes them."""

    def after(make):
        parameter = nn.Parameter(torch.ones(2))
        optimizer = make([{"params": [parameter], "weight_decay": 0.0}])
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for gradient in (1.0, float("inf"), 2.0):
            parameter.grad = scaler.scale(torch.full((2,), gradient))
            scaler.unscale_(optimizer)
            set_lr(optimizer, 0.1)
            scaler.step(optimizer)
            scaler.update()
        return parameter.detach(), optimizer.state[parameter]["step"]

    ours = after(lambda groups: adamw(groups, OptimConfig(betas=(0.9, 0.999))))
    theirs = after(lambda groups: torch.optim.AdamW(groups, fused=True))
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1] == 2


@pytest.mark.slow
def test_learning_needs_no_compiler():
    """`torch._dynamo` takes as long to import as torch."""
    code = """
        import sys, torch
        from vistill.config.optim import OptimConfig
        from vistill.training.checkpoint import load_optimizer_state, optimizer_state
        from vistill.training.lars import LARS
        from vistill.training.optim import build_optimizer, pretrain_groups
        for name in ("adamw", "sgd", "lars"):
            model = torch.nn.Linear(2, 2)
            if name == "lars":
                optimizer = LARS(model.parameters(), lr=0.1)
            else:
                config = OptimConfig(optimizer=name)
                optimizer = build_optimizer(pretrain_groups(model, 0.1), config)
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
                load_optimizer_state(optimizer, model, optimizer_state(optimizer, model))
        print("torch._dynamo" in sys.modules, "rich" in sys.modules)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_what_decays():
    """Biases, 1-D parameters and what the paper names do not, in both kinds of groups."""
    module = nn.ModuleDict(
        {"norm": nn.LayerNorm(3), "linear": nn.Linear(3, 3), "mask_token": nn.Linear(3, 3, False)}
    )
    two = pretrain_groups(module, 0.1, ["mask_token"])
    layered = layer_decay_groups(
        module, 0.1, 1.0, 1, layer_of=lambda _: 1, prefix="", no_decay_names=["mask_token"]
    )
    everything = pretrain_groups(module, 0.1, decay_biases=True)
    for groups, kept in (
        (two, {"linear.weight"}),
        (layered, {"linear.weight"}),
        (everything, None),
    ):
        decays = {
            name
            for group in groups
            for name, parameter in module.named_parameters()
            if any(parameter is one for one in group["params"]) and group["weight_decay"] == 0.1
        }
        assert decays == (kept or set(dict(module.named_parameters())))
        assert {group["weight_decay"] for group in groups if group["params"]} <= {0.0, 0.1}
