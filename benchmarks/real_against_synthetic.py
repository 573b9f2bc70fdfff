"""The real training loop on pictures from disk against the same loop on batches held in memory.

Pictures are read, decoded, cropped and resized by loader processes while the step runs; in-memory
batches cost nothing, so the ratio of the two rates is the price of the data. Both sides take turns.
The share of time that the loop waited for a batch is measured where it asks for one.

    python benchmarks/real_against_synthetic.py --data PICTURES [--student vit_small]
        [--teacher vit_base] [--batch 16] [--steps 6] [--rounds 3] [--workers N] [--device cpu]
"""

import json
import time
from collections.abc import Iterator

from common import (
    data_options,
    describe,
    machine,
    parser,
    random_batch,
    real_stream,
    spread,
    tinymim,
)

from vistill.batch import Batch
from vistill.config.schema import OptimConfig, TrainConfig
from vistill.data import BrokenFiles, TrainStream
from vistill.training.loop import fit


class InMemory:
    """A few batches, again and again."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.broken = BrokenFiles(1, 1.0)

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        for step in range(start_step, stop_step):
            yield self.batches[step % len(self.batches)]

    def close(self) -> None:
        pass


class Cut:
    """A stream (`vistill.training.state.Stream`) with epochs of `steps_per_epoch` steps.

    Attributes:
        waited: seconds that its reader waited for batches, the first one excepted.
    """

    accumulation = 1

    def __init__(self, stream: TrainStream | InMemory, steps_per_epoch: int) -> None:
        self.stream, self.steps_per_epoch = stream, steps_per_epoch
        self.broken, self.waited = stream.broken, 0.0

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        batches = self.stream.iterate(start_step, stop_step)
        yield next(batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        self.stream.close()


def main() -> None:
    arguments = parser(__doc__, batch=16, rounds=3)
    data_options(arguments)
    arguments.add_argument("--steps", type=int, default=6, help="of one turn")
    options = arguments.parse_args()
    held = [random_batch(options, seed) for seed in range(4)]
    train = TrainConfig(
        epochs=1,
        global_batch_size=options.batch,
        precision=options.precision,
        device=options.device,
    )

    rates: dict[str, list[float]] = {"real": [], "synthetic": []}
    waits: dict[str, list[float]] = {"real": [], "synthetic": []}
    for round_ in range(options.rounds):
        for side in list(rates) if round_ % 2 else list(rates)[::-1]:
            real = real_stream(options, seed=round_, workers=options.workers)
            stream = Cut(real if side == "real" else InMemory(held), options.steps)
            method = tinymim(options)
            result = fit(
                method,
                stream,
                optim=OptimConfig(warmup_epochs=0),
                train=train,
                seed=round_,
                progress=False,
            )
            rates[side].append(result.images_per_second)
            waits[side].append(stream.waited / result.seconds)
    report = {
        **describe(options, method),
        "steps_per_round": options.steps,
        "images_per_second": {side: spread(found, 1) for side, found in rates.items()},
        "real_over_synthetic": spread(
            (a / b for a, b in zip(rates["real"], rates["synthetic"], strict=True)), 3
        ),
        "data_wait_percent": {
            side: spread((100 * wait for wait in found), 2) for side, found in waits.items()
        },
        "machine": machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
