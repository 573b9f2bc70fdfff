"""MAE's linear probe (spec 7) on cached features, where an epoch is a matrix product.

Left out against the published protocol: random crops and flips, since every picture is seen once,
in its test view. Added: the batch shrinks with the training set, a run has a least number of steps,
and the learning rate may be chosen among several on a part of the training set, because LARS at the
published rate hardly moves the weights in the few steps that a small set gives.
"""

import time

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.config.evaluation import LinearProbeConfig
from vistill.evaluation.budgets import split_labelled
from vistill.evaluation.lengths import Length, fitting_length
from vistill.evaluation.metrics import top_k_hits
from vistill.evaluation.pictures import Answers, KnownFeatures
from vistill.models.backbone import Backbone
from vistill.training.distributed import World
from vistill.training.lars import LARS
from vistill.training.schedule import learning_rate


class ProbeHead(nn.Module):
    """Batch norm without affine parameters (eps 1e-6), then a linear layer (std 0.01, bias 0)."""

    def __init__(self, width: int, num_classes: int, *, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.Linear(width, num_classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        return self.linear(self.norm(features))


def evaluate(
    model: Backbone, data: KnownFeatures, options: LinearProbeConfig, world: World
) -> Answers:
    """The evaluator `linear`: ranks share the features, on which rank 0 trains the layer."""
    split = data.split(model)
    data.note(length_of(options, len(split.labels), data.noun))
    start = time.monotonic()
    scores = world.once(
        lambda: linear_probe(
            split.bank,
            split.labels,
            split.queries,
            data.num_classes,
            options=options,
            seed=data.seed,
        ).cpu()
    )
    seconds = time.monotonic() - start
    return Answers(scores, split.truth, len(split.labels), seconds, split.broken)


def linear_probe(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    num_classes: int,
    *,
    options: LinearProbeConfig | None = None,
    seed: int = 0,
) -> Float[Tensor, "m c"]:
    """Class scores of `test` by a linear layer trained on `train`, on the features' device.

    Args:
        train: labelled features, at least two.
        train_labels: their classes.
        test: features to classify; they have no influence on the training.
        num_classes: number of classes C.
        options: length, batch and learning rates.
        seed: of the head, the order and the split that chooses the learning rate.
    """
    options = options or LinearProbeConfig()
    rate = _choose_rate(train, train_labels, num_classes, options, seed)
    return _train(train, train_labels, num_classes, options, rate, seed)(test.float())


def length_of(options: LinearProbeConfig, samples: int, noun: str) -> Length:
    """Batch and epochs of a probe on so many features."""
    batch = options.batch_size
    return fitting_length("linear", options, samples, batch=batch, part=9, noun=noun)


def _choose_rate(
    features: Tensor, labels: Tensor, num_classes: int, options: LinearProbeConfig, seed: int
) -> float:
    """The base rate with the best accuracy on a stratified fifth of the training set.

    Among equals the smaller rate wins. Where some class has a single example nothing can be held
    out, and the upper of the middle rates is taken.
    """
    rates = sorted(options.base_lrs)
    if len(rates) == 1:
        return rates[0]
    if labels.bincount()[labels.unique()].min() < 2:
        return rates[len(rates) // 2]
    fit, check = (
        torch.from_numpy(part).to(labels.device)
        for part in split_labelled(labels.cpu().numpy(), 0.2, seed)
    )

    def hits(rate: float) -> int:
        head = _train(features[fit], labels[fit], num_classes, options, rate, seed)
        return top_k_hits(head(features[check].float()), labels[check], 1)

    return max(rates, key=hits)


@torch.enable_grad()
def _train(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    options: LinearProbeConfig,
    base_lr: float,
    seed: int,
) -> nn.Module:
    """A head in eval mode."""
    n = len(features)
    length = length_of(options, n, "sample")
    batch, epochs = length.batch, length.epochs
    steps = n // batch
    head = ProbeHead(features.shape[1], num_classes, seed=seed).to(features.device)
    optimizer = LARS(head.linear.parameters(), lr=0.0, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(n, generator=generator).to(features.device)
        for step, chosen in enumerate(order[: steps * batch].split(batch)):
            optimizer.param_groups[0]["lr"] = learning_rate(
                epoch + step / steps,
                lr=base_lr * max(1.0, batch / 256),
                min_lr=0.0,
                warmup_epochs=length.warmup_epochs,
                epochs=epochs,
            )
            loss = F.cross_entropy(head(features[chosen].float()), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.eval().requires_grad_(False)
