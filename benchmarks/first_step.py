"""CPU seconds from the start of `vistill pretrain` to the end of its first step, beyond that step.

Every start is a process of its own, one thread, loaded in the process itself; the sides take turns.
The step is the median of those that follow the first. `own` is TinyMIM from a teacher of vistill's
own (`run:`), `timm` the same from `timm/vit_small_patch16_224`, `alone` is MAE, which has no
teacher. `import torch` and `import timm` are what a bare interpreter spends on them.

    python benchmarks/first_step.py [--rounds 5] [--sides own timm alone]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, spread
from PIL import Image

SIZE, BATCH, STEPS = 96, 4, 4
SETTINGS = (
    "--student=vit_tiny",
    f"data.image_size={SIZE}",
    "data.held_out=0",
    "data.workers=0",
    "optim.warmup_epochs=0",
    "train.epochs=1",
    "train.precision=fp32",
    f"train.global_batch_size={BATCH}",
    "train.loggers=[]",
)
SIDES = ("own", "timm", "alone")
IMPORTS = ("import torch", "import timm")


def run_and_tell(words: list[str]) -> None:
    """Run the command in this process, then print CPU seconds at the end of every step.

    What is imported here is imported by every such command.
    """
    from vistill.cli import main
    from vistill.training.learner import Learner

    ends, usual = [], Learner.update

    def update(learner: Learner, rate: Any) -> Any:
        norm = usual(learner, rate)
        ends.append(time.process_time())
        return norm

    Learner.update = update  # type: ignore[method-assign]
    try:
        main(words)
    except SystemExit as stop:
        if stop.code:
            raise
    print(json.dumps({"ends": ends, "compiler": "torch._dynamo" in sys.modules}))


def spent(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter of one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def pretrain(folder: Path, name: str, words: list[str]) -> dict[str, Any]:
    """What `run_and_tell` prints of a run in a process of its own."""
    out = folder / name
    words = ["pretrain", *words, "--data", str(folder / "pictures"), "--out", str(out), *SETTINGS]
    done = spent([__file__, "--child", json.dumps([*words, "--overwrite"])])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def bare(code: str) -> float:
    """CPU seconds of an interpreter that does nothing else."""
    return float(spent(["-c", f"{code}; import time; print(time.process_time())"]).stdout)


def beyond(found: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the end of the first step without it, and the step."""
    ends = found["ends"]
    step = statistics.median(b - a for a, b in pairwise(ends))
    return ends[0] - step, step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options.add_argument("--child", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        run_and_tell(json.loads(chosen.child))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), chosen.sides, chosen.rounds)


def report(folder: Path, chosen: list[str], rounds: int) -> None:
    """Print what is found."""
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for index in range(BATCH * STEPS):
        pixels = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index:03}.jpg")
    pretrain(folder, "teacher", ["mae"])
    timm = ["--teacher", "timm/vit_small_patch16_224", "--teacher-weights", "random"]
    sides = {
        "own": ["tinymim", "--teacher", f"run:{folder / 'teacher'}"],
        "timm": ["tinymim", *timm],
        "alone": ["mae"],
    }
    sides = {name: words for name, words in sides.items() if name in chosen}
    seconds: dict[str, list[float]] = {name: [] for name in (*sides, *IMPORTS)}
    steps: dict[str, list[float]] = {name: [] for name in sides}
    compiler = {}
    for _ in range(rounds):
        for name, words in sides.items():
            found = pretrain(folder, name, words)
            start, step = beyond(found)
            seconds[name].append(start)
            steps[name].append(step)
            compiler[name] = found["compiler"]
        for code in IMPORTS:
            seconds[code].append(bare(code))
    torch_alone = seconds["import torch"]
    found = {
        name: {
            "beyond the step": spread(seconds[name], 2),
            "step": spread(steps[name], 2),
            "over import torch": spread(
                a / b for a, b in zip(seconds[name], torch_alone, strict=True)
            ),
            "loads the compiler": compiler[name],
        }
        for name in sides
    }
    bares: dict[str, Any] = {code: spread(seconds[code], 2) for code in IMPORTS}
    print(json.dumps({**found, **bares, "machine": machine("cpu")}, indent=2))


if __name__ == "__main__":
    main()
