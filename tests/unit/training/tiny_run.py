"""A tiny method on a tiny stream: everything the training loop asks for, in milliseconds.

Run as a script it is one training session: `python tiny_run.py OUT …`, which
fault tests kill, resume and start under several ranks.
"""

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from vistill.batch import Batch, Losses
from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.errors import UserError
from vistill.methods.base import Method, weighted
from vistill.methods.side import Side
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.random import Stream
from vistill.stopping import Interrupted
from vistill.training.distributed import connect
from vistill.training.errors import TrainingError
from vistill.training.loop import fit
from vistill.training.run_folder import RunFolder


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.fc(x))


class TinyBackbone(Backbone):
    width, depth, num_heads, num_prefix_tokens = 8, 2, (), 0
    image_size, normalization, taps = (4, 4), Normalization(), frozenset(("block", "norm"))
    origin, build = "random", None

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.patch_embed = nn.Conv2d(3, 8, 2, 2)
        self.blocks = nn.ModuleList(Layer(8) for _ in range(self.depth))
        self.dropout = nn.Dropout(0.1)  # draws from the global generator, like foreign models
        self.norm = nn.LayerNorm(8)

    def tap(self, images, taps, *, visible=None, drop_path_noise=None):
        x = self.patch_embed(images).flatten(2).mT
        found = {}
        for number, block in enumerate(self.blocks, start=1):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            x = self.dropout(x)
            found[Tap("block", number)] = x
        if any(tap.kind == "norm" for tap in taps):
            found[Tap("norm", self.depth)] = self.norm(x)
        return {tap: found[tap] for tap in taps}


class TinyMethod(Method):
    """Learns from a random teacher; `student.norm` never gets a gradient."""

    def __init__(self, seed: int = 0, dropout: float = 0.1) -> None:
        torch.manual_seed(seed)
        super().__init__(TinyBackbone())
        self.head = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(()))
        teacher = TinyBackbone().requires_grad_(False).eval()
        self._theirs = Side(teacher, "teacher", Stream.TEACHER_DROP_PATH)
        self.student.dropout.p = dropout

    def forward(self, batch: Batch) -> Losses:
        self.seen += 1
        with torch.no_grad():
            target = self.teacher(batch.unit_pixels())
        x = self.student.tap(batch.unit_pixels(), [Tap("block", 2)])[Tap("block", 2)]
        error = self.head(x) - target
        return weighted({"mse": (1.0, error.square().mean()), "l1": (0.1, error.abs().mean())})


class InBatch(TinyMethod):
    """Tells every picture's feature from the teacher's of all others in the batch of all ranks."""

    def __init__(self, dropout: float = 0.1, scale: tuple[float, ...] | float = (5.0,)) -> None:
        super().__init__(dropout=dropout)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, batch: Batch) -> Losses:
        self.seen += 1
        with torch.no_grad():
            theirs = self.teacher(batch.unit_pixels()).mean(dim=1)
        x = self.student.tap(batch.unit_pixels(), [Tap("block", 2)])[Tap("block", 2)]
        ours = normalize(self.head(x).mean(dim=1), dim=1)
        theirs = normalize(theirs - theirs.mean(dim=1, keepdim=True), dim=1)
        all_ours = self.ranks.gather(ours, "full")
        all_theirs, ids = self.ranks.gather(theirs), self.ranks.gather(batch.ids)
        assert len(ids) == len(ids.unique()) == self.ranks.size * len(batch)
        own = torch.arange(len(batch)) + self.ranks.rank * len(batch)
        there = cross_entropy(self.scale * ours @ all_theirs.mT, own)
        back = cross_entropy(self.scale * theirs @ all_ours.mT, own)
        return weighted({"there": (0.5, there), "back": (0.5, back)})


class TwoKinds(TinyMethod):
    """Batches of the second source go through a map of their own."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__(dropout=dropout)
        self.heads = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, batch: Batch) -> Losses:
        (source,) = set(batch.inputs["source"].tolist())
        with torch.no_grad():
            target = self.teacher(batch.unit_pixels())
        x = self.student.tap(batch.unit_pixels(), [Tap("block", 2)])[Tap("block", 2)]
        return weighted({"mse": (1.0, (self.head(self.heads[source](x)) - target).square().mean())})


class Queue(TinyMethod):
    """Tells its features from those that this rank has seen before, which it keeps."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__(dropout=dropout)
        self.queue, self.count = torch.zeros(6, 8), 0

    def forward(self, batch: Batch) -> Losses:
        with torch.no_grad():
            target = self.teacher(batch.unit_pixels()).mean(dim=1)
        x = self.student.tap(batch.unit_pixels(), [Tap("block", 2)])[Tap("block", 2)]
        ours = self.head(x).mean(dim=1)
        own = (ours * target).sum(dim=1, keepdim=True)
        scores = torch.cat([own, ours @ self.queue.mT], dim=1)
        if self.training:
            self.queue = torch.cat([self.queue, target])[-6:]
            self.count += len(batch)
        return weighted({"nce": (1.0, cross_entropy(scores, torch.zeros(len(x)).long()))})

    def rank_state(self):
        return {"queue": self.queue, "count": self.count}

    def load_rank_state(self, state):
        self.queue, self.count = state["queue"].to(self.head.weight.device), state["count"]


class NoBroken:
    noun = "picture"

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def summary(self) -> str:
        return ""

    def state(self) -> dict[str, str]:
        return dict(self.names)

    def load(self, state: dict[str, str]) -> None:
        self.names = dict(state)


class SyntheticStream:
    """Random pictures, a function of epoch and position alone."""

    def __init__(
        self,
        *,
        samples: int = 24,
        global_batch_size: int = 8,
        micro_batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        delay: float = 0.0,
        poison: int | None = None,
        full_from: int | None = None,
        stop_at: int | None = None,
        slow_from: int | None = None,
        interleave: bool = False,
        mixed: bool = False,
    ) -> None:
        self.global_batch_size = global_batch_size
        self.per_rank = global_batch_size // world_size
        self.micro = micro_batch_size or self.per_rank
        self.steps_per_epoch = samples // global_batch_size
        self.accumulation = self.per_rank // self.micro
        self.rank, self.samples, self.delay, self.poison = rank, samples, delay, poison
        self.full_from, self.stop_at, self.slow_from = full_from, stop_at, slow_from
        self.interleave, self.mixed = interleave, mixed
        self.broken = NoBroken()

    def kinds(self) -> list[Batch]:
        return [self.batch(torch.arange(2), 0, 3 * kind) for kind in range(2 * self.mixed)]

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        for step in range(start_step, stop_step):
            epoch, within = divmod(step, self.steps_per_epoch)
            order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(epoch))
            if self.interleave:  # micro-batches are those of two ranks together
                order = order.view(-1, 2, 2, 2).transpose(1, 2).reshape(-1)
            start = within * self.global_batch_size + self.rank * self.per_rank
            for first in range(start, start + self.per_rank, self.micro):
                ids = order[first : first + self.micro]
                slow = self.slow_from is not None and step >= self.slow_from
                time.sleep(1.0 if slow else self.delay)
                yield self.batch(ids, epoch, step)

    def close(self) -> None:
        self.closed = True

    def batch(self, ids: Tensor, epoch: int, step: int) -> Batch:
        pixels = torch.stack(
            [
                torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1000 * epoch + i))
                for i in ids.tolist()
            ]
        )
        if step == self.full_from:
            # No file may grow beyond this: writes fail as on a full disk, but for this process.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == self.poison and self.rank == 0:
            pixels[0, 0, 0, 0] = float("nan")  # one sample of one rank
        inputs = {"source": torch.full((len(ids),), step // 3 % 2)} if self.mixed else {}
        return Batch(pixels=pixels, seeds=ids + 1000 * epoch, ids=ids, inputs=inputs)


def open_run(path: Path, world=None, **options) -> RunFolder:
    options = {"fingerprint": {"seed": 0}, "config": "seed: 0\n"} | options
    return RunFolder.open(path, world=world or connect("cpu"), **options)


def optim_config(**options) -> OptimConfig:
    return OptimConfig(**({"lr": 0.01, "warmup_epochs": 1.0} | options))


SGD = optim_config(optimizer="sgd", momentum=0.5, lr=0.5, weight_decay=0.0)
"""AdamW without clipping does the same whatever factor the gradient has, and so does clipping."""


def train_config(**options) -> TrainConfig:
    defaults = {"epochs": 3, "global_batch_size": 8, "device": "cpu", "loggers": ()}
    defaults |= {"precision": "fp32"}
    return TrainConfig(**(defaults | options))


def die_in(moment: str, step: int) -> None:
    """Kill this process when it is about to flush or rename the checkpoint of a step."""

    def fatal(act):
        def wrapped(target, *args):
            name = (
                target.name if isinstance(target, Path) else os.readlink(f"/proc/self/fd/{target}")
            )
            if ".partial-" in str(name) and str(name).endswith(f"-step-{step:08}.pt"):
                os.kill(os.getpid(), signal.SIGKILL)
            return act(target, *args)

        return wrapped

    if moment == "fsync":
        os.fsync = fatal(os.fsync)
    else:
        Path.replace = fatal(Path.replace)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--cadence", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--micro", type=int)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--sgd", action="store_true", help="by which a factor of the loss shows")
    parser.add_argument("--in-batch", action="store_true", help="a loss over all of a batch")
    parser.add_argument("--two-kinds", action="store_true", help="of batches, three steps each")
    parser.add_argument("--queue", action="store_true", help="state that each rank has for itself")
    parser.add_argument("--scalar", action="store_true")
    parser.add_argument("--interleave", action="store_true")
    parser.add_argument("--poison", type=int)
    parser.add_argument("--wide", type=int, default=0, help="megabytes that a checkpoint weighs")
    parser.add_argument("--die-in", choices=["fsync", "replace"])
    parser.add_argument("--die-at-step", type=int)
    parser.add_argument("--full-from-step", type=int)
    parser.add_argument("--stop-at-step", type=int)
    parser.add_argument("--slow-from", type=int, help="a second a micro-batch from this step on")
    args = parser.parse_args()
    if args.die_in:
        die_in(args.die_in, args.die_at_step)
    world = connect("cpu")
    method: Method = TinyMethod(dropout=args.dropout)
    if args.queue:
        method = Queue(args.dropout)
    if args.two_kinds:
        method = TwoKinds(args.dropout)
    if args.in_batch:
        method = InBatch(args.dropout, 5.0 if args.scalar else (5.0,))
    if args.wide:
        method.register_buffer("weight", torch.zeros(args.wide * 250_000))
    stream = SyntheticStream(
        samples=args.samples,
        micro_batch_size=args.micro,
        rank=world.rank,
        world_size=world.size,
        delay=args.delay,
        poison=args.poison,
        full_from=args.full_from_step,
        stop_at=args.stop_at_step,
        slow_from=args.slow_from,
        interleave=args.interleave,
        mixed=args.two_kinds,
    )
    run = open_run(args.out, world)
    try:
        result = fit(
            method,
            stream,
            optim=SGD if args.sgd else optim_config(clip_norm=1.0),
            train=train_config(
                epochs=args.epochs,
                checkpoint_steps=args.cadence,
                strategy=args.strategy,
                precision=args.precision,
                compile=args.compile,
            ),
            seed=0,
            run=run,
            on_evaluate=lambda epoch: {"held_out_loss": 1.0 / epoch},
            on_export=lambda _, name: torch.save(
                method.state_dict(), args.out / "export" / f"{name}.pt"
            ),
            progress=False,
            log_seconds=0.0,
        )
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except (TrainingError, UserError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.queue:
        (args.out / f"queue-{world.rank}.json").write_text(json.dumps(method.queue.tolist()))
        assert method.count == args.epochs * args.samples // world.size
    if world.main:
        (args.out / "result.json").write_text(json.dumps(result.terms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
