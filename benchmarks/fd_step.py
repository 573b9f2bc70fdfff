"""A step of feature distillation of vistill against a plain formulation: time and peak memory.

CLIP's ViT-B/16 layout teaches a BEiT-style student. `plain` writes the published step out: softmax
attention tensors, a 1×1 convolution between transpositions; `vistill` is the training loop's own
step. Both start from the same pictures and weights and drop the same branches; first the loss and
every gradient are compared.

    python benchmarks/fd_step.py [--student vit_small] [--teacher vit_base] [--batch 8]
        [--rounds 7] [--device cpu] [--precision fp32] [--clock wall]
"""

import argparse
from contextlib import ExitStack

import torch
from against_plain import LR, Step, agreement, compare, plain_step
from common import make_learner, parser, random_batch
from plain_fd import PlainBeit, PlainClip, plain_loss
from torch import Tensor, nn

from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.files.clip import CLIP_NORMALIZATION
from vistill.models.sizes import VIT_SIZES
from vistill.models.vit import VisionTransformer
from vistill.random import Stream, per_sample_uniform
from vistill.training.optim import pretrain_groups

OPTIM = OptimConfig(no_decay=("cls_token", "pos_embed"), betas=(0.9, 0.999), clip_norm=3.0)
DROP_PATH = 0.1


def fd(options: argparse.Namespace) -> FeatureDistillation:
    """The published method around models with the same random weights every time."""
    torch.manual_seed(0)
    (width, depth, heads), (wide, deep, many) = (
        VIT_SIZES[name] for name in (options.student, options.teacher)
    )
    student = VisionTransformer(
        image_size=options.image_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        position="none",
        relative_position="shared",
        layer_scale=0.1,
        qkv_bias="no_key",
        initialization="truncated",
    )
    teacher = VisionTransformer(
        image_size=options.image_size,
        embed_dim=wide,
        depth=deep,
        num_heads=many,
        position="learned",
        pre_norm=True,
        activation="quick_gelu",
        norm_eps=1e-5,
        normalization=CLIP_NORMALIZATION,
    )
    method = FeatureDistillation(student, teacher, drop_path=DROP_PATH)
    return method.to_device(options.device).train()


class Plain:
    """Student, projector and teacher of the plain formulation, with a vistill method's weights."""

    def __init__(self, method: FeatureDistillation) -> None:
        device = next(method.parameters()).device
        projector = method.projector
        self.parts = nn.ModuleDict(
            {
                "student": PlainBeit(method.student),
                "projector": nn.Conv1d(projector.in_features, projector.out_features, 1),
            }
        ).to(device)
        self.parts["projector"].weight.data.copy_(projector.weight[:, :, None])
        self.parts["projector"].bias.data.copy_(projector.bias)
        self.parts["student"].index = self.parts["student"].index.to(device)
        self.teacher = PlainClip(method.teacher).to(device).eval().requires_grad_(False)
        self.ours, self.theirs = method.student.normalization, method.teacher.normalization
        self.rates = method.student.drop_path_rates[1:]

    def loss(self, batch: Batch) -> Tensor:
        pixels = batch.unit_pixels()
        draws = per_sample_uniform(batch.seeds, 2 * len(self.rates), Stream.DROP_PATH).T
        rates = [rate for rate in self.rates for _ in range(2)]
        keep = [
            (torch.floor(1 - rate + draw) / (1 - rate))[:, None, None]
            for rate, draw in zip(rates, draws, strict=True)
        ]
        images, normalised = self.theirs(pixels), self.ours(pixels)
        student, projector = self.parts["student"], self.parts["projector"]
        return plain_loss(student, projector, self.teacher, normalised, images, keep)


def agree(options: argparse.Namespace) -> dict[str, float]:
    """Do both sides compute the same?"""
    method = fd(options)
    plain, batch = Plain(method), random_batch(options, 0).to(options.device)
    return agreement(
        method(batch).total,
        plain.loss(batch),
        method.student.named_parameters(),
        plain.parts["student"].named_parameters(),
    )


def make_step(side: str, options: argparse.Namespace, cleanup: ExitStack) -> Step:
    """A whole optimiser step of one side, from a batch on the host."""
    method = fd(options)
    if side == "vistill":
        learner = make_learner(options, method, cleanup, OPTIM)

        def ours(batch: Batch) -> None:
            learner.accumulate(batch, 1, last=True)
            learner.update(LR)

        return ours
    plain = Plain(method)
    groups = pretrain_groups(plain.parts, OPTIM.weight_decay, OPTIM.no_decay)
    return plain_step(options, plain.loss, groups, OPTIM)


if __name__ == "__main__":
    compare(parser(__doc__, batch=8, rounds=7), make_step, agree)
