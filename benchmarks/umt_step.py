"""A step of UMT's first stage against a plain formulation of it: time and peak memory.

A CLIP-like image teacher with a projection looks at every frame; the student of clips sees a fifth
of the tokens. `plain` writes the published step out (`plain_umt.py`); `vistill` is the training
loop's own step. Both start from the same clips, draws and weights; first the loss and every
gradient are compared. With `--masks M`, vistill draws M masks for a look of the teacher and plain
takes M steps' worth of looks: the times are those of as many clips and masks.

    python benchmarks/umt_step.py [--student vit_base] [--frames 8] [--batch 2] [--rounds 5]
        [--masks 1] [--device cpu] [--precision fp32] [--clock wall]
"""

import argparse
from contextlib import ExitStack

import torch
from against_plain import LR, Step, agreement, compare, plain_step
from common import make_learner, parser, random_batch
from plain_umt import PlainCLIP, PlainUMT
from torch import Tensor

from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.config.umt import UMTConfig
from vistill.methods.umt import UMT
from vistill.models.build import create_backbone
from vistill.models.vit import VisionTransformer
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.semantic import exponential
from vistill.training.optim import pretrain_groups

OPTIM = OptimConfig(betas=(0.9, 0.95))
TEACHERS = {"vit_tiny": (192, 3, 128), "vit_small": (384, 6, 384), "vit_base": (768, 12, 512)}


def umt(options: argparse.Namespace, masks: int = 1) -> UMT:
    """The default method around models with the same random weights every time."""
    torch.manual_seed(0)
    student = create_backbone(
        options.student, image_size=options.image_size, num_frames=options.frames, tubelet_size=1
    )
    width, heads, out = TEACHERS[options.teacher]
    teacher = VisionTransformer(
        image_size=options.image_size,
        embed_dim=width,
        depth=12,
        num_heads=heads,
        position="learned",
        pre_norm=True,
        activation="quick_gelu",
        norm_eps=1e-5,
    )
    teacher.keep_projection(torch.randn(width, out) * width**-0.5)
    method = UMT(student, teacher, UMTConfig(masks=masks))
    return method.to_device(options.device).train()


class Plain:
    """Both models of the plain formulation, with a vistill method's weights."""

    def __init__(self, method: UMT) -> None:
        device = next(method.parameters()).device
        self.trained = PlainUMT(method).to(device)
        blocks = method.looks.blocks
        self.teacher = PlainCLIP(method.teacher, blocks).to(device).eval().requires_grad_(False)
        self.slots, self.positions = method.student.slots, method.looks.positions

    def loss(self, batch: Batch) -> Tensor:
        drawn = per_sample_uniform(batch.seeds, self.slots * self.positions, Stream.MASK)
        noise = exponential(drawn).reshape(-1, self.positions)
        return self.trained.loss(self.teacher, batch.unit_pixels(), noise)


def agree(options: argparse.Namespace) -> dict[str, float]:
    """Do both sides compute the same?"""
    method = umt(options)
    plain, batch = Plain(umt(options)), random_batch(options, 0).to(options.device)
    return agreement(
        method(batch).total,
        plain.loss(batch),
        method.named_parameters(),
        plain.trained.named_parameters(),
    )


def make_step(side: str, options: argparse.Namespace, cleanup: ExitStack) -> Step:
    """A whole optimiser step of one side, from a batch on the host."""
    if side == "vistill":
        learner = make_learner(options, umt(options, options.masks), cleanup, OPTIM)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain = Plain(umt(options))
    groups = pretrain_groups(plain.trained, OPTIM.weight_decay)
    return plain_step(options, plain.loss, groups, OPTIM, passes=options.masks)


if __name__ == "__main__":
    arguments = parser(__doc__, batch=2, rounds=5)
    arguments.set_defaults(student="vit_base", teacher="vit_base")
    arguments.add_argument("--frames", type=int, default=8)
    arguments.add_argument("--masks", type=int, default=1)
    compare(arguments, make_step, agree)
