"""A TinyMIM step of vistill against a plain formulation of it: time and peak memory.

Three sides: `plain` runs the whole teacher, `plain_stopped` leaves the teacher at its block, and
`vistill` is the training loop's own step. All start from the same pictures, make the same student
view, drop the same branches and hold the same weights: first the loss and every gradient are
compared, then the sides take turns, so that their ratio is meaningful even on a busy machine.
Memory is measured in a process of its own for each side.

    python benchmarks/tinymim_step.py [--student vit_small] [--teacher vit_base] [--batch 8]
        [--rounds 7] [--device cpu] [--precision fp32] [--teacher-block N] [--clock wall]
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack

import torch
from common import (
    CLOCKS,
    PeakMemory,
    describe,
    in_own_process,
    interleaved,
    machine,
    make_learner,
    parser,
    random_batch,
    spread,
    synchronize,
    tinymim,
)
from plain_tinymim import PlainViT, drop_path_factors, plain_loss
from torch import Tensor

from vistill.augment.jitter import color_jitter
from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.methods.tinymim import TinyMIM
from vistill.random import Stream, per_sample_uniform
from vistill.training.optim import pretrain_groups

SIDES = ("plain", "plain_stopped", "vistill")
LR = 1e-4
LOSS_RTOL = 1e-5
# Of a parameter's gradient, as a norm: ||a - b|| / ||b||. The two sides add up in other orders.
GRADIENT_RTOL = 1e-3


class Plain:
    """Student and teacher of the plain formulation, with the weights of a vistill method."""

    def __init__(self, method: TinyMIM, *, stop: bool) -> None:
        heads = method.target.num_heads
        block = method.target.taps[1].block
        self.student = PlainViT(method.student, method.student.depth, heads, stop=True)
        self.teacher = PlainViT(method.teacher, block, heads, stop=stop).requires_grad_(False)
        device = next(method.parameters()).device
        self.student.to(device), self.teacher.to(device)
        self.draws = method.student.num_drop_path_draws
        self.jitter, self.rate = (
            method.config.student_color_jitter,
            method.student.drop_path_rates[0],
        )

    def loss(self, batch: Batch) -> Tensor:
        pixels = batch.unit_pixels()
        student_view = color_jitter(pixels, batch.seeds, self.jitter)
        noise = per_sample_uniform(batch.seeds, self.draws, Stream.DROP_PATH).T
        return plain_loss(
            self.student,
            self.teacher,
            self.student.normalization(student_view),
            self.teacher.normalization(pixels),
            drop_path_factors(noise, self.rate),
        )


def difference(method: TinyMIM, plain: Plain, batch: Batch) -> dict[str, float]:
    """The loss, its relative difference, and the largest relative difference of all gradients.

    Raises:
        AssertionError: the two sides do not compute the same.
    """
    ours, theirs = method(batch).total, plain.loss(batch)
    ours.backward(), theirs.backward()
    loss = abs(ours.item() / theirs.item() - 1)
    gradients = dict(plain.student.named_parameters())
    worst = 0.0
    for name, parameter in method.student.named_parameters():
        wanted = gradients[name].grad
        assert (parameter.grad is None) == (wanted is None), f"only one side trains {name}"
        if parameter.grad is not None and wanted is not None:
            worst = max(worst, float((parameter.grad - wanted).norm() / wanted.norm()))
    assert loss < LOSS_RTOL, f"losses differ: {ours.item()} and {theirs.item()}"
    assert worst < GRADIENT_RTOL, f"gradients differ by {worst}"
    method.zero_grad(), plain.student.zero_grad()
    return {"loss": ours.item(), "loss_difference": loss, "worst_gradient_difference": worst}


def make_step(
    side: str, options: argparse.Namespace, cleanup: ExitStack
) -> Callable[[Batch], object]:
    """A whole optimiser step of one side, from a batch on the host."""
    method = tinymim(options)
    if side == "vistill":
        learner = make_learner(options, method, cleanup)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain, optim = Plain(method, stop=side == "plain_stopped"), OptimConfig()
    groups = pretrain_groups(plain.student, optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=optim.betas)
    bf16 = options.precision == "bf16"

    def theirs(batch: Batch) -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
            loss = plain.loss(batch.to(options.device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return theirs


def measure_memory(side: str, options: argparse.Namespace) -> float:
    """The most gigabytes that three steps held besides the weights of both models."""
    with ExitStack() as cleanup:
        step = make_step(side, options, cleanup)
        batch = random_batch(options, 0)
        memory = PeakMemory(options.device)
        for _ in range(3):
            step(batch)
        synchronize(options.device)
        return memory.growth() / 1e9


def measure_time(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step by side and round."""
    clock = CLOCKS[options.clock]

    def once(step: Callable[[Batch], object], round_: int) -> float:
        batch = random_batch(options, round_)
        synchronize(options.device)
        start = clock()
        step(batch)
        synchronize(options.device)
        return clock() - start

    with ExitStack() as cleanup:
        steps = {side: make_step(side, options, cleanup) for side in SIDES}
        return interleaved(steps, options.rounds, once)


def main() -> None:
    arguments = parser(__doc__, batch=8, rounds=7)
    arguments.add_argument("--memory-of", choices=SIDES, help="measure only this, in this process")
    options = arguments.parse_args()
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, options)))
        return
    memory = {side: in_own_process("--memory-of", side) for side in SIDES}
    method = tinymim(options)
    few = argparse.Namespace(**vars(options) | {"batch": 2})
    agreement = difference(
        method, Plain(method, stop=False), random_batch(few, 0).to(options.device)
    )
    seconds = measure_time(options)
    report = {
        **describe(options, method),
        "agreement": {name: f"{value:.2g}" for name, value in agreement.items()},
        "seconds": {side: spread(found) for side, found in seconds.items()},
        "time_over_vistill": {
            side: spread(a / b for a, b in zip(seconds[side], seconds["vistill"], strict=True))
            for side in SIDES[:2]
        },
        "step_gb": {side: round(found, 3) for side, found in memory.items()},
        "memory_over_vistill": {
            side: round(memory[side] / memory["vistill"], 2) for side in SIDES[:2]
        },
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
