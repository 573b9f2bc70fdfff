"""What benchmarks of a step against a plain formulation of it share: agreement, time, memory."""

import argparse
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from common import (
    PeakMemory,
    in_own_process,
    machine,
    random_batch,
    seconds_in_turn,
    spread,
    synchronize,
)
from torch import Tensor

from vistill.batch import Batch
from vistill.config.optim import OptimConfig
from vistill.training.optim import Group, build_optimizer, set_lr

SIDES = ("plain", "vistill")
LR = 1e-4
LOSS_RTOL = 1e-5
# Of a parameter's gradient, as a norm: ||a - b|| / ||b||. The two sides add up in other orders.
GRADIENT_RTOL = 1e-3

Step = Callable[[Batch], object]
MakeStep = Callable[[str, argparse.Namespace, ExitStack], Step]
Named = Iterable[tuple[str, torch.nn.Parameter]]


def agreement(ours: Tensor, theirs: Tensor, our: Named, their: Named) -> dict[str, float]:
    """The loss, its relative difference, and the largest relative difference of all gradients.

    A gradient that is tiny beside the others is compared with the mean one: it is rounding noise.

    Args:
        ours, theirs: losses of both sides, for the same batch and weights.
        our, their: parameters, under the same names.

    Raises:
        AssertionError: the two sides do not compute the same.
    """
    ours.backward(), theirs.backward()
    loss = abs(ours.item() / theirs.item() - 1)
    wanted = {name: parameter.grad for name, parameter in their}
    found = {name: parameter.grad for name, parameter in our}
    assert set(wanted) == set(found), f"names differ: {sorted(set(wanted) ^ set(found))[:4]}"
    norms = [grad.norm() for grad in wanted.values() if grad is not None]
    mean, worst = torch.stack(norms).mean(), 0.0
    for name, grad in found.items():
        other = wanted[name]
        assert (grad is None) == (other is None), f"only one side trains {name}"
        if grad is not None and other is not None:
            scale = torch.maximum(other.norm(), 1e-3 * mean)
            worst = max(worst, float((grad - other).norm() / scale))
    assert loss < LOSS_RTOL, f"losses differ: {ours.item()} and {theirs.item()}"
    assert worst < GRADIENT_RTOL, f"gradients differ by {worst}"
    return {"loss": ours.item(), "loss_difference": loss, "worst_gradient_difference": worst}


def plain_step(
    options: argparse.Namespace,
    loss: Callable[[Batch], Tensor],
    groups: list[Group],
    optim: OptimConfig,
    *,
    passes: int = 1,
) -> Step:
    """A step of the plain side, whose optimiser is the kernel that vistill uses.

    Args:
        options: device and precision.
        loss: of a batch on the device.
        groups: what is learned.
        optim: as of vistill's side.
        passes: forward and backward passes before the optimiser's step.
    """
    optimizer = build_optimizer(groups, optim)
    set_lr(optimizer, LR)
    parameters = [parameter for group in groups for parameter in group["params"]]
    bf16 = options.precision == "bf16"

    def step(batch: Batch) -> None:
        for _ in range(passes):
            with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
                found = loss(batch.to(options.device))
            (found / passes).backward()
        if optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _memory(make_step: MakeStep, side: str, options: argparse.Namespace) -> float:
    """The most gigabytes that three steps held besides the weights of both models."""
    with ExitStack() as cleanup:
        step = make_step(side, options, cleanup)
        batch = random_batch(options, 0)
        memory = PeakMemory(options.device)
        for _ in range(3):
            step(batch)
        synchronize(options.device)
        return memory.growth() / 1e9


def _seconds(make_step: MakeStep, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step by side and round."""
    with ExitStack() as cleanup:
        steps = {side: make_step(side, options, cleanup) for side in SIDES}
        return seconds_in_turn(steps, options)


def compare(
    arguments: argparse.ArgumentParser,
    make_step: MakeStep,
    agree: Callable[[argparse.Namespace], dict[str, float]],
) -> None:
    """Measure and print as JSON."""
    arguments.add_argument("--memory-of", choices=SIDES, help="measure only this, in this process")
    options = arguments.parse_args()
    if options.memory_of:
        print(json.dumps(_memory(make_step, options.memory_of, options)))
        return
    memory = {side: in_own_process("--memory-of", side) for side in SIDES}
    agreed = agree(argparse.Namespace(**vars(options) | {"batch": min(4, options.batch)}))
    seconds = _seconds(make_step, options)
    ratios = (a / b for a, b in zip(seconds["plain"], seconds["vistill"], strict=True))
    frames = f"{options.frames} x " if "frames" in options else ""
    report: dict[str, Any] = {
        "student": options.student,
        "teacher": options.teacher,
        "batch": f"{options.batch} x {frames}{options.image_size} px, {options.precision}",
        "rounds": options.rounds,
        "clock": options.clock,
        "agreement": {name: f"{value:.2g}" for name, value in agreed.items()},
        "seconds": {side: spread(found) for side, found in seconds.items()},
        "time_over_vistill": spread(ratios),
        "step_gb": {side: round(found, 3) for side, found in memory.items()},
        "memory_over_vistill": round(memory["plain"] / memory["vistill"], 2),
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))
