"""Whole training steps of MAE and TinyMIM: losses, learning rates and final parameters."""

import torch
from names import mae_state, part
from test_mae_golden import build_mae, reconstruct
from test_tinymim_golden import build_tinymim, whole_step

from vistill.training.optim import pretrain_groups
from vistill.training.schedule import learning_rate


def train(module, config, step_loss):
    """AdamW over the published groups; losses and learning rates of every step."""
    optimizer = torch.optim.AdamW(
        pretrain_groups(module, config["weight_decay"]), lr=1.0, betas=(0.9, 0.95)
    )
    losses, rates = [], []
    for i in range(config["iters"]):
        rate = learning_rate(
            config["epoch"] + i / config["iters"],
            lr=config["lr"],
            min_lr=config.get("min_lr", 0.0),
            warmup_epochs=config["warmup_epochs"],
            epochs=config["epochs"],
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = step_loss(i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        rates.append(rate)
    return torch.stack(losses), torch.tensor(rates, dtype=torch.float64)


def assert_parameters(module, expected, case):
    """Compare by name; the key third of a qkv bias has no true gradient and is left out."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    assert expected
    for name, value in expected.items():
        if name.endswith((":q", ":v")):
            thirds = parameters[name[:-2]].chunk(3)
            found = thirds[0] if name.endswith(":q") else thirds[2]
        else:
            found = parameters[name]
        torch.testing.assert_close(
            found, value, atol=case.atol, rtol=case.rtol, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_mae(golden):
    case = golden("mae_train_steps")
    method = build_mae(case.config, case.state)
    images, noise = case.inputs["imgs"], case.inputs["noise"]
    losses, rates = train(
        method, case.config, lambda i: reconstruct(method, images[i], noise[i]).loss
    )
    torch.testing.assert_close(losses, case.output["loss"].float(), atol=case.atol, rtol=case.rtol)
    torch.testing.assert_close(rates, case.output["lr"].double(), atol=1e-12, rtol=1e-6)
    assert_parameters(method, mae_state(part(case.output, "param")), case)


def test_tinymim(golden):
    case = golden("tinymim_train_steps")
    method = build_tinymim(case)
    before = {n: p.detach().clone() for n, p in method.student.named_parameters()}
    terms = []

    def step_loss(i):
        losses = whole_step(method, {name: value[i] for name, value in case.inputs.items()})
        terms.append(losses.terms["qk"])
        return losses.total

    losses, rates = train(method, case.config, step_loss)
    close = {"atol": case.atol, "rtol": case.rtol}
    torch.testing.assert_close(losses, case.output["loss"].float(), **close)
    torch.testing.assert_close(torch.stack(terms), case.output["qk"].float(), **close)
    torch.testing.assert_close(rates, case.output["lr"].double(), atol=1e-12, rtol=1e-6)
    assert_parameters(method.student, part(case.output, "student"), case)
    after = dict(method.student.named_parameters())
    for name in case.info.get("grad_none", []):
        assert torch.equal(after[name], before[name])
