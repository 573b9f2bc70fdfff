"""An AMD step of vistill on clips against a plain formulation of it: time and peak memory.

A VideoMAE-style teacher teaches a smaller student by masks of 90 and 75 %, with a decoder of 4
blocks and two generators of 2. `plain` writes the published step out (`plain_amd.py`); `vistill` is
the training loop's own step. Both start from the same clips, masks and weights; first the loss and
every gradient are compared.

    python benchmarks/amd_step.py [--student vit_small] [--teacher vit_base] [--frames 16]
        [--batch 2] [--rounds 5] [--device cpu] [--precision fp32] [--clock wall]
"""

import argparse
from contextlib import ExitStack

import torch
from against_plain import LR, Step, agreement, compare, plain_step
from common import make_learner, parser, random_batch
from plain_amd import PlainAMD, PlainViT
from torch import Tensor

from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.methods.amd import AMD
from vistill.models.build import create_backbone
from vistill.random import Stream, per_sample_uniform
from vistill.training.optim import pretrain_groups

OPTIM = OptimConfig(clip_norm=0.02)


def amd(options: argparse.Namespace) -> AMD:
    """The default method around models with the same random weights every time."""
    torch.manual_seed(0)
    student, teacher = (
        create_backbone(name, image_size=options.image_size, num_frames=options.frames)
        for name in (options.student, options.teacher)
    )
    return AMD(student, teacher).to_device(options.device).train()


class Plain:
    """Both models of the plain formulation, with a vistill method's weights."""

    def __init__(self, method: AMD) -> None:
        device = next(method.parameters()).device
        self.trained = PlainAMD(method).to(device)
        blocks = [theirs for _, theirs in method.direct.pairs]
        self.teacher = PlainViT(method.teacher, blocks).to(device).eval().requires_grad_(False)

    def loss(self, batch: Batch) -> Tensor:
        noise = per_sample_uniform(batch.seeds, self.trained.mask_sizes.positions, Stream.MASK)
        return self.trained.loss(self.teacher, batch.unit_pixels(), noise)


def agree(options: argparse.Namespace) -> dict[str, float]:
    """Do both sides compute the same?"""
    method = amd(options)
    plain, batch = Plain(method), random_batch(options, 0).to(options.device)
    return agreement(
        method(batch).total,
        plain.loss(batch),
        method.named_parameters(),
        plain.trained.named_parameters(),
    )


def make_step(side: str, options: argparse.Namespace, cleanup: ExitStack) -> Step:
    """A whole optimiser step of one side, from a batch on the host."""
    method = amd(options)
    if side == "vistill":
        learner = make_learner(options, method, cleanup, OPTIM)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain = Plain(method)
    groups = pretrain_groups(plain.trained, OPTIM.weight_decay, ("mask_token",))
    return plain_step(options, plain.loss, groups, OPTIM)


if __name__ == "__main__":
    arguments = parser(__doc__, batch=2, rounds=5)
    arguments.add_argument("--frames", type=int, default=16)
    compare(arguments, make_step, agree)
