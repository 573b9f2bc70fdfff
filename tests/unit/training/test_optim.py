"""Groups that golden files do not cover, AdamW's rates, and LARS's rules."""

import pytest
import torch
from torch import nn

from vistill.config.schema import OptimConfig
from vistill.training.lars import LARS
from vistill.training.optim import (
    adamw,
    layer_decay_groups,
    peak_lr,
    pretrain_groups,
    set_lr,
    trainable,
)
from vistill.training.schedule import learning_rate


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
