"""A step that reads its teacher from a cache, against the student alone and the published step.

Sides take turns within one run: `plain` is the published formulation in fp32 with its teacher
stopped where it is read (TinyMIM and AMD); `live` and `warm` are the training loop's own step with
a teacher that runs and with one that is read; `alone` finds the teacher's words in memory, so it is
the student's part; `warm_bf16` is `warm` with a student under bf16 autocast.

    python benchmarks/warm_step.py [--method tinymim] [--target relation] [--cache-precision bf16]
        [--student vit_small] [--teacher vit_base] [--batch 8] [--rounds 7] [--clock cpu]
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import amd_step
import tinymim_step
import torch
import umt_step
from common import (
    machine,
    make_learner,
    parser,
    random_batch,
    seconds_in_turn,
    spread,
)
from torch import Tensor

from vistill.batch import Batch
from vistill.config.methods import TinyMIMConfig
from vistill.config.schema import OptimConfig
from vistill.data.cache import TeacherCache
from vistill.data.records import record_of
from vistill.methods.shared_view import SharedView
from vistill.methods.tinymim import TinyMIM
from vistill.models.build import create_backbone

LR = 1e-4
Step = Callable[[Batch], Any]


def make_method(options: argparse.Namespace) -> SharedView:
    """Student and teacher with the same random weights every time."""
    if options.method == "amd":
        return amd_step.amd(options)
    if options.method == "umt":
        return umt_step.umt(options)
    torch.manual_seed(0)
    student, teacher = (
        create_backbone(name, image_size=options.image_size)
        for name in (options.student, options.teacher)
    )
    kind, _, residual = options.kind.partition("+")
    config = {"target": options.target, "feature": {"kind": kind, "residual": bool(residual)}}
    method = TinyMIM(
        student, teacher, TinyMIMConfig.model_validate(config), block=options.teacher_block
    )
    return method.to_device(options.device).train()


def plain_step(options: argparse.Namespace, cleanup: ExitStack) -> Step | None:
    """The published step, where it is written out."""
    if options.method == "amd":
        return amd_step.make_step("plain", options, cleanup)
    if options.method == "tinymim" and options.target == "relation":
        return tinymim_step.make_step("plain", options, cleanup)
    return None


class Ours:
    """The training loop's own step, and a complete cache of every round's view."""

    def __init__(self, options: argparse.Namespace, cleanup: ExitStack, precision: str) -> None:
        self.options = argparse.Namespace(**vars(options) | {"precision": precision})
        self.method = make_method(options)
        optim = amd_step.OPTIM if options.method == "amd" else OptimConfig()
        self.learner = make_learner(self.options, self.method, cleanup, optim)
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        views, few = options.rounds + 1, random_batch(options, 0).first(1)
        with torch.no_grad():
            said = self.method.live_features(few.to(options.device))
        record = record_of(said, options.cache_precision)
        self.cache = TeacherCache(folder / "cache", record, views, options.batch)
        self.cache.open_to_write({})
        self.memory: dict[int, Any] = {}
        self.view_of: dict[int, int] = {}
        for view in range(views):
            batch = random_batch(options, view)
            self.view_of[int(batch.seeds[0])] = view
            shown = self.shown(batch).to(options.device)
            self.memory[view] = self.method.features(shown)
        self.cache.close()

    def shown(self, batch: Batch) -> Batch:
        """The batch as a loader brings it: what the cache has is read."""
        view, ids = self.view_of[int(batch.seeds[0])], batch.ids.numpy()
        found = self.cache.read(view, ids)
        return replace(batch, cached=self.cache.for_batch(view, batch.ids, batch.seeds, found))

    def learn(self, batch: Batch) -> Tensor:
        """An optimiser step; the loss."""
        losses = self.learner.accumulate(batch, 1, last=True)
        self.learner.update(LR)
        return losses.total

    def warm(self, batch: Batch) -> Tensor:
        """A step that reads its teacher."""
        return self.learn(self.shown(batch))

    def alone(self, batch: Batch) -> Tensor:
        """A step that has its teacher's words already."""
        words = self.memory[self.view_of[int(batch.seeds[0])]]
        vars(self.method)["features"] = lambda _: words
        try:
            return self.learn(batch)
        finally:
            del vars(self.method)["features"]


def agreement(ours: Ours) -> dict[str, float]:
    """The loss of the live teacher, and by how much a warm one is off."""
    batch = random_batch(ours.options, 0)
    device = ours.options.device
    with torch.no_grad():
        live = float(ours.method(batch.to(device)).total)
        warm = float(ours.method(ours.shown(batch).to(device)).total)
    return {"live": live, "off": warm / live - 1}


def describe_target(options: argparse.Namespace) -> str | None:
    """What TinyMIM matches."""
    if options.method != "tinymim":
        return None
    return f"feature, {options.kind}" if options.target == "feature" else options.target


def main() -> None:
    arguments = parser(__doc__, batch=8, rounds=7)
    arguments.add_argument("--method", choices=("tinymim", "amd", "umt"), default="tinymim")
    targets = ("relation", "feature", "class_token")
    arguments.add_argument("--target", choices=targets, default="relation", help="of tinymim")
    arguments.add_argument("--kind", default="block", help="of --target feature; ffn+residual, …")
    arguments.add_argument("--cache-precision", choices=("fp32", "bf16", "int8", "int4"))
    arguments.add_argument("--frames", type=int, default=16, help="of amd and umt")
    options = arguments.parse_args()
    if options.method == "tinymim":
        del options.frames
    with ExitStack() as cleanup:
        ours, narrow = Ours(options, cleanup, "fp32"), Ours(options, cleanup, "bf16")
        found = agreement(ours)
        sides: dict[str, Step] = {
            "live": ours.learn,
            "warm": ours.warm,
            "alone": ours.alone,
            "warm_bf16": narrow.warm,
        }
        plain = plain_step(options, cleanup)
        if plain is not None:
            sides["plain"] = plain

        seconds = seconds_in_turn(sides, options)

    def ratio(a: str, b: str) -> dict[str, Any]:
        return spread(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    nbytes = ours.cache.layout.nbytes
    report = {
        "method": options.method,
        "target": describe_target(options),
        "student": options.student,
        "teacher": options.teacher,
        "batch": f"{options.batch} x {options.image_size} px"
        + (f" x {options.frames} frames" if "frames" in options else ""),
        "cache": f"{ours.cache.layout.precision}, {nbytes} bytes a sample and view",
        "clock": options.clock,
        "loss": {"live": found["live"], "warm_off_percent": round(100 * found["off"], 4)},
        "seconds": {side: round(statistics.median(spent), 3) for side, spent in seconds.items()},
        "warm_over_alone": ratio("warm", "alone"),
        "warm_over_live": ratio("warm", "live"),
        **(
            {f"{side}_over_plain": ratio(side, "plain") for side in ("live", "warm", "warm_bf16")}
            if plain is not None
            else {}
        ),
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
