"""An epoch with the teacher at every step, with a cache being written, and with a cache being read.

Three sides take turns within one run: `live` has no cache, `cold` starts an empty one every round,
`warm` reads a complete one. Same pictures, crops and models, random weights; the loss of an epoch
that reads is compared with that of the live teacher on the same views.

    python benchmarks/cached_targets.py --data PICTURES [--method kdep] [--precision bf16]
        [--student torchvision/resnet18] [--teacher torchvision/resnet50] [--count 64]
        [--image-size 96] [--batch 16] [--rounds 3] [--device cpu] [--clock wall]
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import CLOCKS, clock_option, interleaved, machine, spread, synchronize

from vistill.config.methods import KDEPConfig
from vistill.config.schema import OptimConfig, TrainConfig
from vistill.data import Source, TrainStream, TrainTransform, open_source
from vistill.data.cache import TeacherCache
from vistill.data.records import Layout
from vistill.methods.base import Method
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.kdep import KDEP
from vistill.models.build import create_backbone
from vistill.training.distributed import connect
from vistill.training.learner import Learner

MODELS = {
    "kdep": ("torchvision/resnet18", "torchvision/resnet50"),
    "fd": ("vit_tiny", "vit_base"),
}
OPTIM = OptimConfig(lr=1e-4, warmup_epochs=0)


def make_method(options: argparse.Namespace) -> Method:
    """Student and teacher with the same random weights every time."""
    torch.manual_seed(0)
    student, teacher = (
        create_backbone(name, image_size=options.image_size)
        for name in (options.student, options.teacher)
    )
    if options.method == "fd":
        return FeatureDistillation(student, teacher).to_device(options.device).train()
    # Which channels are matched costs nothing and needs no pass over the pictures.
    return (
        KDEP(student, teacher, KDEPConfig(align="channel_random")).to_device(options.device).train()
    )


class Epoch:
    """One epoch of the training loop's own steps; views are those of epoch 0 every time."""

    def __init__(self, options: argparse.Namespace, source: Source, cleanup: ExitStack) -> None:
        self.options, self.source = options, source
        self.method = make_method(options)
        self.learner = Learner(
            self.method,
            next(iter(self._stream(None).iterate(0, 1))),
            optim=OPTIM,
            train=TrainConfig(device=options.device),
            groups=None,
            world=connect(options.device),
            cleanup=cleanup,
        )

    def _stream(self, cache: TeacherCache | None) -> TrainStream:
        options = self.options
        stream = TrainStream(
            self.source,
            np.arange(options.count),
            TrainTransform(options.image_size),
            seed=0,
            global_batch_size=options.batch,
            micro_batch_size=options.batch,
            workers=0,
            max_broken=1.0,
        )
        if cache is not None:
            stream.use([cache])
        return stream

    def run(self, cache: TeacherCache | None, *, learn: bool = True) -> list[float]:
        """The losses of an epoch."""
        stream, losses = self._stream(cache), []
        for batch in stream.iterate(0, stream.steps_per_epoch):
            if learn:
                losses.append(self.learner.accumulate(batch, 1, last=True).total.detach())
                self.learner.update(1e-4)
            else:
                with torch.no_grad():
                    losses.append(self.method(batch.to(self.options.device)).total)
        stream.close()
        return [float(loss) for loss in losses]


def open_cache(folder: Path, options: argparse.Namespace, method: Method) -> TeacherCache:
    """An empty cache of one view, in a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    teacher = method.teacher
    assert teacher is not None
    shape: tuple[int, ...] = (teacher.width,)
    if options.method == "fd":
        grid = (options.image_size // 16) ** 2
        shape = (grid + teacher.num_prefix_tokens, teacher.width)
    cache = TeacherCache(folder, Layout(shape, options.precision), 1, options.count)
    cache.open_to_write({"format": 1})
    return cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="pictures: folder, list, .tar or .zip")
    parser.add_argument("--method", choices=tuple(MODELS), default="kdep")
    parser.add_argument("--student")
    parser.add_argument("--teacher")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), help="of the cache")
    parser.add_argument("--count", type=int, default=64, help="pictures of an epoch")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    clock_option(parser)
    options = parser.parse_args()
    options.student = options.student or MODELS[options.method][0]
    options.teacher = options.teacher or MODELS[options.method][1]
    options.precision = options.precision or ("fp32" if options.method == "kdep" else "bf16")
    source = open_source(options.data)
    options.count = min(options.count, len(source))
    clock = CLOCKS[options.clock]

    with ExitStack() as cleanup, tempfile.TemporaryDirectory() as folder:
        epoch = Epoch(options, source, cleanup)
        warm = open_cache(Path(folder) / "warm", options, epoch.method)
        cleanup.callback(warm.close)
        epoch.run(warm)
        # The live teacher's own values, on the views of the cache.
        exact = argparse.Namespace(**vars(options) | {"precision": "fp32"})
        silent = open_cache(Path(folder) / "silent", exact, epoch.method)
        silent.keep = lambda *_: None  # type: ignore[method-assign]
        cleanup.callback(silent.close)
        live_loss = epoch.run(silent, learn=False)
        read_loss = epoch.run(warm, learn=False)

        def cold() -> None:
            cache = open_cache(Path(folder) / "cold", options, epoch.method)
            epoch.run(cache)
            cache.close()

        sides: dict[str, Callable[[], object]] = {
            "live": lambda: epoch.run(None),
            "cold": cold,
            "warm": lambda: epoch.run(warm),
        }

        def once(side: Callable[[], object], _: int) -> float:
            synchronize(options.device)
            start = clock()
            side()
            synchronize(options.device)
            return clock() - start

        seconds = interleaved(sides, options.rounds, once)
    used = options.count // options.batch * options.batch
    rate = {name: round(used / statistics.median(spent), 2) for name, spent in seconds.items()}
    report: dict[str, Any] = {
        "method": options.method,
        "teacher": f"{options.teacher}, random weights",
        "student": f"{options.student}, random weights",
        "pictures": f"{used} at {options.image_size} px, batch {options.batch}",
        "cache": f"{options.precision}, {warm.layout.nbytes} bytes per picture and view",
        "clock": options.clock,
        "epoch_seconds": {name: spread(spent) for name, spent in seconds.items()},
        "images_per_second": rate,
        "cold_over_live_time": spread(
            a / b for a, b in zip(seconds["cold"], seconds["live"], strict=True)
        ),
        "live_over_warm_time": spread(
            a / b for a, b in zip(seconds["live"], seconds["warm"], strict=True)
        ),
        "loss": {
            "live": live_loss[0],
            "read": read_loss[0],
            "largest_relative_difference": max(
                abs(a / b - 1) for a, b in zip(read_loss, live_loss, strict=True)
            ),
        },
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
