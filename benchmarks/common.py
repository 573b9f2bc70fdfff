"""What the benchmarks share: models, batches, clocks, memory, a description."""

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistill.batch import Batch
from vistill.config.schema import OptimConfig, TrainConfig
from vistill.data import (
    TrainStream,
    TrainTransform,
    decode_image,
    default_workers,
    open_source,
)
from vistill.methods.base import Method
from vistill.methods.tinymim import TinyMIM
from vistill.models.build import create_backbone
from vistill.training.distributed import connect
from vistill.training.learner import Learner

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parser(description: str, *, batch: int, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark of a step has."""
    options = argparse.ArgumentParser(description=description.split("\n")[0])
    options.add_argument("--student", default="vit_small")
    options.add_argument("--teacher", default="vit_base")
    options.add_argument("--teacher-block", type=int, help="default: 18 of 24, else the last")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--batch", type=int, default=batch)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    clock_option(options)
    return options


def clock_option(options: argparse.ArgumentParser) -> None:
    """Add the choice of a clock: CPU seconds of this process can be compared on a busy machine."""
    options.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: one thread")


def tinymim(options: argparse.Namespace) -> TinyMIM:
    """The default TinyMIM method around models with the same random weights every time."""
    torch.manual_seed(0)
    student, teacher = (
        create_backbone(name, image_size=options.image_size)
        for name in (options.student, options.teacher)
    )
    method = TinyMIM(student, teacher, block=options.teacher_block)
    return method.to_device(options.device).train()


def make_learner(
    options: argparse.Namespace,
    method: Method,
    cleanup: ExitStack,
    optim: OptimConfig | None = None,
) -> Learner:
    """The training loop's own step."""
    return Learner(
        method,
        [random_batch(options, 0)],
        optim=optim or OptimConfig(),
        train=TrainConfig(precision=options.precision, device=options.device),
        groups=None,
        world=connect(options.device),
        cleanup=cleanup,
    )


def random_batch(options: argparse.Namespace, seed: int) -> Batch:
    """Random pictures on the host, or clips where there is a number of frames."""
    generator = torch.Generator().manual_seed(seed)
    side, count = options.image_size, options.batch
    frames = (options.frames,) if "frames" in options else ()
    size = (count, 3, *frames, side, side)
    pixels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    seeds = torch.randint(0, 1 << 62, (count,), generator=generator)
    return Batch(pixels=pixels, seeds=seeds, ids=torch.arange(count))


def data_options(arguments: argparse.ArgumentParser) -> None:
    """Add the options of benchmarks that read pictures."""
    arguments.add_argument("--data", required=True, help="pictures: folder, list, .tar or .zip")
    arguments.add_argument("--workers", type=int, default=default_workers())


def real_stream(options: argparse.Namespace, *, seed: int, workers: int) -> TrainStream:
    """Random crops of the pictures, as TinyMIM takes them."""
    source = open_source(options.data)
    return TrainStream(
        source,
        np.arange(len(source)),
        TrainTransform(options.image_size, scale=(0.2, 1.0)),
        seed=seed,
        global_batch_size=options.batch,
        micro_batch_size=options.batch,
        workers=workers,
        max_broken=1.0,
    )


def describe(options: argparse.Namespace, method: TinyMIM) -> dict[str, Any]:
    """What was measured, and on what, for a reader elsewhere."""
    found: dict[str, Any] = {
        "student": options.student,
        "teacher": f"{options.teacher}, block {method.target.taps[1].block}",
        "batch": f"{options.batch} x {options.image_size} px, {options.precision}",
        "rounds": options.rounds,
        "clock": options.clock,
    }
    if "data" in options:
        source = open_source(options.data)
        first = decode_image(source.read(0))
        found["pictures"] = (
            f"{len(source)} in {Path(options.data).name}, such as {first.shape[2]}x{first.shape[1]}"
        )
        found["workers"] = options.workers
    return found


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


class PeakMemory:
    """How far memory in use rises: resident on a Linux host with glibc, allocated on CUDA."""

    def __init__(self, device: str) -> None:
        gc.collect()
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what is free already shall not count as in use
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.start = self._status("VmRSS")

    def growth(self) -> int:
        """Bytes by which use rose at most since the start."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() - self.start
        return self._status("VmHWM") - self.start

    @staticmethod
    def _status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def in_own_process(*arguments: str) -> Any:
    """What this script prints, as JSON, when it is run again with `arguments` added."""
    command = [sys.executable, *sys.argv, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    """Median and range."""
    found = list(values)
    return {
        "median": round(statistics.median(found), digits),
        "range": [round(min(found), digits), round(max(found), digits)],
    }


def interleaved(
    sides: dict[str, Callable[[int], Any]], rounds: int, time_once: Callable[..., float]
) -> dict[str, list[float]]:
    """Seconds of every side in every round, the sides taking turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        # Every other round runs backwards, so that no side always follows the same one.
        for name in list(sides) if round_ % 2 else list(sides)[::-1]:
            spent = time_once(sides[name], round_)
            if round_:
                seconds[name].append(spent)
    return seconds


def seconds_in_turn(
    steps: dict[str, Callable[[Any], Any]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of a step on a random batch, by side and round."""
    clock = CLOCKS[options.clock]

    def once(step: Callable[[Any], Any], round_: int) -> float:
        batch = random_batch(options, round_)
        synchronize(options.device)
        start = clock()
        step(batch)
        synchronize(options.device)
        return clock() - start

    return interleaved(steps, options.rounds, once)


def machine(device: str) -> dict[str, Any]:
    """The machine in words, for a reader elsewhere."""
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
