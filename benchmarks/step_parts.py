"""Share of a TinyMIM training step by part, on real pictures.

The parts are timed inside a real step: the training loop's own functions are called, and the
functions that it calls are replaced by themselves between two looks at the clock (the device is
waited for at each look, so that the sum is somewhat slower than an untimed step).

    python benchmarks/step_parts.py --data PICTURES [--student vit_small] [--teacher vit_base]
        [--batch 16] [--rounds 7] [--workers N] [--device cpu] [--precision fp32] [--clock wall]
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from common import (
    CLOCKS,
    data_options,
    describe,
    machine,
    make_learner,
    parser,
    real_stream,
    synchronize,
    tinymim,
)

from vistill.methods import tinymim as tinymim_module
from vistill.methods import tinymim_targets
from vistill.training.measure import Feed

LR = 1e-4


class Stopwatch:
    """Seconds spent in functions, by name."""

    def __init__(self, device: str, clock: Callable[[], float]) -> None:
        self.device, self.clock = device, clock
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with its seconds added to `name`."""

        def run(*arguments: Any, **options: Any) -> Any:
            synchronize(self.device)
            start = self.clock()
            result = work(*arguments, **options)
            synchronize(self.device)
            self.seconds[name] += self.clock() - start
            return result

        return run

    def watch(self, owner: Any, attribute: str, name: str, cleanup: ExitStack) -> None:
        """Time the calls of `owner.attribute` as `name`."""
        timed = self.timed(name, getattr(owner, attribute))
        cleanup.enter_context(patch.object(owner, attribute, timed))


def main() -> None:
    arguments = parser(__doc__, batch=16, rounds=7)
    data_options(arguments)
    options = arguments.parse_args()
    stream = real_stream(options, seed=0, workers=options.workers)
    method, watch, steps = tinymim(options), Stopwatch(options.device, CLOCKS[options.clock]), []
    with ExitStack() as cleanup:
        cleanup.callback(stream.close)
        learner = make_learner(options, method, cleanup)
        feed = Feed(stream.iterate(0, 1 << 30))
        watch.watch(feed, "take", "wait for data", cleanup)
        watch.watch(learner, "accumulate", "forward and backward", cleanup)
        watch.watch(method, "forward", "forward", cleanup)
        watch.watch(method.theirs, "see", "teacher", cleanup)
        watch.watch(tinymim_module, "color_jitter", "colour jitter", cleanup)
        watch.watch(method.student, "tap", "student forward", cleanup)
        watch.watch(tinymim_targets, "relation_loss", "relation loss", cleanup)
        watch.watch(learner, "update", "optimiser and gradient norm", cleanup)

        def step() -> None:
            learner.accumulate(feed.take(), 1, last=True)
            learner.update(LR)

        for round_ in range(options.rounds + 1):
            watch.seconds.clear()
            watch.timed("step", step)()
            if round_:  # the first one warms up
                steps.append(parts(watch.seconds))
    shares = {
        name: {
            "ms": round(1e3 * statistics.median(step[name] for step in steps), 1),
            "percent": round(
                100 * statistics.median(step[name] / sum(step.values()) for step in steps), 1
            ),
        }
        for name in steps[0]
    }
    report = {
        **describe(options, method),
        "step_ms": round(1e3 * statistics.median(sum(step.values()) for step in steps), 1),
        "parts": shares,
        "loader_cpu_ms_per_batch": round(1e3 * loader_seconds(options), 1),
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))


def loader_seconds(options: argparse.Namespace, batches: int = 10) -> float:
    """CPU seconds that one batch costs the loader processes, measured in this one."""
    stream = real_stream(options, seed=1, workers=0)
    reading = stream.iterate(0, batches + 1)
    next(reading)
    start = time.thread_time()
    for _ in reading:
        pass
    return (time.thread_time() - start) / batches


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of parts that do not contain each other and add up to the step."""
    names = ("wait for data", "teacher", "colour jitter", "student forward", "relation loss")
    found = {name: seconds[name] for name in names}
    found["backward"] = seconds["forward and backward"] - seconds["forward"]
    found["optimiser and gradient norm"] = seconds["optimiser and gradient norm"]
    found["rest"] = seconds["step"] - sum(found.values())
    return found


if __name__ == "__main__":
    main()
