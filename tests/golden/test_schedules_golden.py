"""Learning rates, parameter groups and LARS against the published code (spec 3 and 7)."""

import math

import pytest
import torch
from torch import nn

from vistill.models.vit import vit_layer
from vistill.training.lars import LARS
from vistill.training.optim import layer_decay_groups, pretrain_groups
from vistill.training.schedule import learning_rate


def test_lr_schedule(golden):
    case = golden("lr_schedule")
    for schedule in case.info["schedules"]:
        lr = schedule["blr"] * schedule["eff_batch"] / 256
        assert lr == pytest.approx(schedule["peak_lr"], rel=1e-12)
        for epoch, expected, of_scaled_group in schedule["values_[epoch,lr,lr_of_scaled_group]"]:
            got = learning_rate(
                epoch,
                lr=lr,
                min_lr=schedule["min_lr"],
                warmup_epochs=schedule["warmup_epochs"],
                epochs=schedule["epochs"],
            )
            assert math.isclose(got, expected, rel_tol=case.rtol, abs_tol=case.atol)
            assert math.isclose(got / 2, of_scaled_group, rel_tol=case.rtol, abs_tol=case.atol)


class Named(nn.Module):
    """Parameters under dotted names: 1-D unless the name is that of a matrix or a token."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            owner = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            flat = last == "bias" or (path and "norm" in path[-1])
            shape = (2,) if flat else (1, 1, 2) if not path else (2, 2)
            owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))


@pytest.mark.parametrize("model", ["mae", "tinymim_student"])
def test_pretrain_param_groups(golden, model):
    expected = golden("pretrain_param_groups").info[model]
    module = Named(expected["decay"] + expected["no_decay"])
    module.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 2, 2), requires_grad=False))
    names = {p: name for name, p in module.named_parameters()}
    groups = pretrain_groups(module, 0.05)
    assert [group["weight_decay"] for group in groups] == expected["wd"]
    assert {names[p] for p in groups[0]["params"]} == set(expected["no_decay"])
    assert {names[p] for p in groups[1]["params"]} == set(expected["decay"])


@pytest.mark.parametrize("case", ["finetune_layer_decay_gap", "finetune_layer_decay_cls"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_finetune_layer_decay(golden, case, prefix):
    case = golden(case)
    config, expected = case.config, case.info["params"]
    heads = ("head.", "fc_norm.")
    prefixed = {n: n if n.startswith(heads) else prefix + n for n in expected}
    module = Named(prefixed.values())
    parameters = dict(module.named_parameters())
    groups = layer_decay_groups(
        module,
        config["weight_decay"],
        config["layer_decay"],
        config["depth"],
        layer_of=lambda name: vit_layer(name, config["depth"]),
        prefix=prefix,
    )
    assert len(groups) == case.info["n_groups"]
    group_of = {p: group for group in groups for p in group["params"]}
    for name, (_, scale, weight_decay) in expected.items():
        group = group_of[parameters[prefixed[name]]]
        assert math.isclose(group["lr_scale"], scale, rel_tol=case.rtol, abs_tol=case.atol)
        assert group["weight_decay"] == weight_decay


def test_linprobe_lars(golden):
    case = golden("linprobe_lars")
    config = case.config
    head = nn.Sequential(
        nn.BatchNorm1d(config["dim"], affine=False, eps=1e-6),
        nn.Linear(config["dim"], config["classes"]),
    )
    head.load_state_dict(case.state, strict=False)
    optimizer = LARS(head.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    losses = []
    for features, labels in zip(case.inputs["features"], case.inputs["labels"], strict=True):
        loss = nn.functional.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    got = {
        "loss": torch.stack(losses),
        "weight": head[1].weight,
        "bias": head[1].bias,
        "running_mean": head[0].running_mean,
        "running_var": head[0].running_var,
        "eval_logits": head.eval()(case.inputs["features"][0]),
    }
    for name, value in got.items():
        torch.testing.assert_close(value, case.output[name], atol=case.atol, rtol=case.rtol)
