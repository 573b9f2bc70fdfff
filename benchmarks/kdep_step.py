"""A KDEP step of vistill against a plain formulation of it: time and peak memory.

`plain` runs both networks whole, as published; `vistill` is the training loop's own step, which
stops at the pooled feature. Both start from the same pictures and weights and use the same
projection; first the loss and every gradient are compared.

    python benchmarks/kdep_step.py [--student resnet18] [--teacher resnet50] [--batch 16]
        [--rounds 7] [--device cpu] [--precision fp32] [--clock wall]
"""

import argparse
import copy
from contextlib import ExitStack

import torch
from against_plain import LR, Step, agreement, compare, plain_step
from common import make_learner, parser, random_batch
from plain_kdep import plain_loss
from torch import Tensor

from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.methods.kdep import KDEP
from vistill.models.build import create_backbone
from vistill.training.optim import pretrain_groups, trainable

OPTIM = OptimConfig(optimizer="sgd", weight_decay=5e-4, decay_biases=True, warmup_epochs=0)


def kdep(options: argparse.Namespace) -> KDEP:
    """KDEP around models with the same random weights every time, and some projection."""
    torch.manual_seed(0)
    student, teacher = (
        create_backbone(f"torchvision/{name}", image_size=options.image_size)
        for name in (options.student, options.teacher)
    )
    method = KDEP(student, teacher)
    width = teacher.width
    method.use_fit(
        {
            "count": torch.tensor(2 * width),
            "mean": torch.randn(width) / 10,
            "std": torch.ones(width),
            "singular_values": torch.linspace(width, 1, width),
            "basis": torch.randn(width, width) / width**0.5,
        }
    )
    return method.to_device(options.device).train()


class Plain:
    """Networks of the plain formulation, with the weights of a vistill method."""

    def __init__(self, method: KDEP) -> None:
        self.view, self.normalization = method.view, method.student.normalization
        self.student = copy.deepcopy(method.student.module)
        self.teacher = copy.deepcopy(method.teacher.module)
        self.mean, self.basis = method.maps["feature"].mean, method.maps["feature"].basis

    def loss(self, batch: Batch) -> Tensor:
        images = self.normalization(self.view(batch, augment=True).unit_pixels())
        return plain_loss(self.student, self.teacher, images, self.mean, self.basis)


def agree(options: argparse.Namespace) -> dict[str, float]:
    """Do both sides compute the same?"""
    method = kdep(options)
    plain, batch = Plain(method), random_batch(options, 0).to(options.device)
    return agreement(
        method(batch).total,
        plain.loss(batch),
        method.student.module.named_parameters(),
        plain.student.named_parameters(),
    )


def make_step(side: str, options: argparse.Namespace, cleanup: ExitStack) -> Step:
    """A whole optimiser step of one side, from a batch on the host."""
    method = kdep(options)
    if side == "vistill":
        learner = make_learner(options, method, cleanup, OPTIM)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain = Plain(method)
    groups = pretrain_groups(plain.student, OPTIM.weight_decay, decay_biases=True)
    return plain_step(options, plain.loss, trainable(groups), OPTIM)


if __name__ == "__main__":
    arguments = parser(__doc__, batch=16, rounds=7)
    arguments.set_defaults(student="resnet18", teacher="resnet50")
    compare(arguments, make_step, agree)
