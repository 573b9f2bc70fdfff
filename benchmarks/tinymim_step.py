"""A TinyMIM step of vistill against a plain formulation of it: time and peak memory.

`plain` writes the published step out (`plain_tinymim.py`), its teacher stopped at its block, as the
authors' is; `vistill` is the training loop's own step. Both start from the same pictures, make the
same student view, drop the same branches and hold the same weights: first the loss and every
gradient are compared.

    python benchmarks/tinymim_step.py [--student vit_small] [--teacher vit_base] [--batch 8]
        [--rounds 7] [--device cpu] [--precision fp32] [--teacher-block N] [--clock wall]
"""

import argparse
from contextlib import ExitStack

from against_plain import LR, Step, agreement, compare, plain_step
from common import make_learner, parser, random_batch, tinymim
from plain_tinymim import PlainViT, drop_path_factors, plain_loss
from torch import Tensor

from vistill.augment.jitter import color_jitter
from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.methods.tinymim import TinyMIM
from vistill.random import Stream, per_sample_uniform
from vistill.training.optim import pretrain_groups

OPTIM = OptimConfig()


class Plain:
    """Student and teacher of the plain formulation, with the weights of a vistill method."""

    def __init__(self, method: TinyMIM) -> None:
        heads = method.target.num_heads
        block = method.target.taps[1].block
        self.student = PlainViT(method.student, method.student.depth, heads)
        self.teacher = PlainViT(method.teacher, block, heads).requires_grad_(False)
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


def agree(options: argparse.Namespace) -> dict[str, float]:
    """Do both sides compute the same?"""
    method = tinymim(options)
    plain, batch = Plain(method), random_batch(options, 0).to(options.device)
    return agreement(
        method(batch).total,
        plain.loss(batch),
        method.student.named_parameters(),
        plain.student.named_parameters(),
    )


def make_step(side: str, options: argparse.Namespace, cleanup: ExitStack) -> Step:
    """A whole optimiser step of one side, from a batch on the host."""
    method = tinymim(options)
    if side == "vistill":
        learner = make_learner(options, method, cleanup, OPTIM)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain = Plain(method)
    groups = pretrain_groups(plain.student, OPTIM.weight_decay)
    return plain_step(options, plain.loss, groups, OPTIM)


if __name__ == "__main__":
    compare(parser(__doc__, batch=8, rounds=7), make_step, agree)
