"""A step of distillation by LightlyTrain 0.18 and by vistill, live and from a warm cache.

The same pictures, the same ViT-S teacher with random weights, a ViT-Ti student, one thread; each
tool loads, crops and recolours as it does by default. Every side is a process that trains; they
take turns after every optimiser step, and CPU seconds from one step to the next are compared, so
loading counts. `warm` is the run after the epoch that fills its cache. The `_auto` sides let
vistill choose the precision (bf16 where the CPU is fast at it), all others compute in fp32.

LightlyTrain (AGPL) is no dependency: install it by hand, in an environment of its own, and name
its interpreter. Where it is absent the benchmark says so and ends.

    OMP_NUM_THREADS=1 python benchmarks/lightly.py --data pictures [--python ENV/bin/python]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEACHER, STUDENT = "vit_small_patch16_224", "vit_tiny_patch16_224"
MARK = "CPU seconds of a step: "
SIDES = ("lightly", "live", "warm", "live_auto", "warm_auto")


def take_turns() -> None:
    """Tell of every optimiser step of this process what it took, and wait for the next turn."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    last = time.process_time()

    def told(*_: Any) -> None:
        nonlocal last
        now = time.process_time()
        print(f"\n{MARK}{now - last}", flush=True)
        sys.stdin.readline()
        last = time.process_time()

    register_optimizer_step_post_hook(told)


def train_lightly(options: argparse.Namespace, out: str) -> None:
    """As its users train, but for the teacher's weights."""
    import lightly_train
    import timm

    lightly_train.pretrain(
        out=out,
        data=options.data,
        model=timm.create_model(STUDENT, num_classes=0),
        method="distillation",
        method_args={"teacher": timm.create_model(TEACHER, num_classes=0)},
        epochs=1000,
        batch_size=options.batch,
        num_workers=0,
        devices=1,
        accelerator="cpu",
        precision="32-true",
        overwrite=True,
    )


def train_vistill(options: argparse.Namespace, side: str, out: str) -> None:
    """Feature distillation by the command."""
    from vistill.cli import main

    words = [
        *("pretrain", "feature_distillation", "--data", options.data, "--out", out),
        *("--teacher", f"timm/{TEACHER}", "--teacher-weights", "random", "--student", "vit_tiny"),
        *("data.workers=0", "data.held_out=0", "train.loggers=[]", "train.epochs=1000"),
        *("train.evaluate_every=1000", f"train.global_batch_size={options.batch}"),
        f"train.precision={'auto' if side.endswith('auto') else 'fp32'}",
    ]
    if side.startswith("warm"):
        words += [f"cache={out}-cache", "cache.views=1"]
    main(words)


class Side:
    """A training that waits after every step."""

    def __init__(self, options: argparse.Namespace, name: str, folder: str) -> None:
        python = options.python if name == "lightly" else sys.executable
        words = [python, __file__, "--data", options.data, "--batch", str(options.batch)]
        self.errors = Path(folder) / f"{name}.log"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*words, "--side", name, "--out", f"{folder}/{name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.begun = False

    def step(self) -> float:
        """CPU seconds of one more step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.begun:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        self.begun = True
        for line in self.process.stdout:
            _, mark, said = line.partition(MARK)  # behind a bar that the tool draws
            if mark:
                return float(said)
        raise SystemExit(f"{self.errors.name}:\n{self.errors.read_text()[-3000:]}")


def measured(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every side by round, behind the steps that warm up and fill the caches."""
    pictures = sum(1 for path in Path(options.data).rglob("*") if path.is_file())
    warm_up = -(-pictures // options.batch) + 1
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(options, name, folder) for name in options.sides}
        try:
            for name, side in sides.items():
                for _ in range(warm_up if name.startswith("warm") else 2):
                    side.step()
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    seconds[name].append(side.step())
            return seconds
        finally:
            for side in sides.values():
                side.process.kill()
                side.process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--data", required=True, help="a folder of pictures of about 500 px")
    arguments.add_argument("--python", default=sys.executable, help="one that has LightlyTrain")
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    arguments.add_argument("--side", help=argparse.SUPPRESS)
    arguments.add_argument("--out", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.side:
        take_turns()
        if options.side == "lightly":
            train_lightly(options, options.out)
        else:
            train_vistill(options, options.side, options.out)
        return
    version = subprocess.run(
        [options.python, "-c", "import lightly_train; print(lightly_train.__version__)"],
        capture_output=True,
        text=True,
    )
    if version.returncode:
        print(f"LightlyTrain is not installed for {options.python}: nothing to compare with")
        return
    from common import machine, spread

    seconds = measured(options)
    report = {
        "lightly_train": version.stdout.strip(),
        "batch": options.batch,
        "rounds": options.rounds,
        "seconds": {name: round(statistics.median(spent), 3) for name, spent in seconds.items()},
        **{
            f"{name}_over_lightly": spread(
                a / b for a, b in zip(spent, seconds["lightly"], strict=True)
            )
            for name, spent in seconds.items()
            if name != "lightly"
        },
        "machine": machine("cpu"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
