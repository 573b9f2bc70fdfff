"""CPU seconds of a TinyMIM step on one rank and on two: what two ranks cost, and where it goes.

The same 2 × `--batch` pictures a step, in every setting: `one` in one pass, `one, two passes`
accumulated, `two, unconnected` by two processes that know nothing of one another (each half the
pictures), `ddp` and `fsdp2` by two ranks over gloo. CPU seconds are summed over processes; `others`
is the share of threads beside the one that steps: gloo's and autograd's. The settings take turns.

    python benchmarks/ranks_step.py [--student vit_tiny] [--teacher vit_small] [--batch 8]
        [--rounds 3] [--precision fp32]
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import torch
from common import machine, parser, random_batch, tinymim

from vistill.config.schema import OptimConfig, TrainConfig
from vistill.training.distributed import connect
from vistill.training.learner import Learner

STEPS = 4
SETTINGS = {  # processes, connected, passes a step, pictures of a pass in halves
    "one": (1, False, 1, 2),
    "one, two passes": (1, False, 2, 1),
    "two, unconnected": (2, False, 1, 1),
    "ddp": (2, True, 1, 1),
    "fsdp2": (2, True, 1, 1),
}


def work(options: argparse.Namespace) -> None:
    """Steps of one process; prints its CPU seconds a step."""
    torch.set_num_threads(1)
    _, _, passes, halves = SETTINGS[options.setting]
    world = connect("cpu")
    sized = argparse.Namespace(**vars(options) | {"batch": halves * options.batch})
    strategy = "fsdp2" if options.setting == "fsdp2" else "ddp"
    with ExitStack() as cleanup:
        learner = Learner(
            tinymim(sized),
            [random_batch(sized, 0)],
            optim=OptimConfig(),
            train=TrainConfig(precision=options.precision, device="cpu", strategy=strategy),
            groups=None,
            world=world,
            cleanup=cleanup,
        )

        def steps(count: int) -> None:
            for number in range(count):
                for one in range(passes):
                    batch = random_batch(sized, 100 * number + 10 * one + world.rank)
                    learner.accumulate(batch, passes, last=one == passes - 1)
                learner.update(1e-4)

        steps(2)
        process, thread, wall = time.process_time(), time.thread_time(), time.perf_counter()
        steps(STEPS)
        found = {
            "cpu": (time.process_time() - process) / STEPS,
            "stepping": (time.thread_time() - thread) / STEPS,
            "wall": (time.perf_counter() - wall) / STEPS,
        }
    print(json.dumps(found), flush=True)


def session(name: str) -> dict[str, float]:
    """One round of a setting."""
    count, connected, _, _ = SETTINGS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(count):
        place = {"OMP_NUM_THREADS": "1"}
        if connected:
            place |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command, pipe = [sys.executable, *sys.argv, "--setting", name], subprocess.PIPE
        environment = {**os.environ, **place}
        ranks.append(subprocess.Popen(command, env=environment, stdout=pipe, text=True))
    said = [json.loads(rank.communicate()[0].strip().splitlines()[-1]) for rank in ranks]
    cpu, stepping = (sum(one[key] for one in said) for key in ("cpu", "stepping"))
    return {"cpu": cpu, "others": 1 - stepping / cpu, "wall": max(one["wall"] for one in said)}


def main() -> None:
    arguments = parser(__doc__, batch=8, rounds=3)
    arguments.set_defaults(student="vit_tiny", teacher="vit_small")
    arguments.add_argument("--setting", choices=SETTINGS, help="only this, in this process")
    options = arguments.parse_args()
    if options.setting:
        work(options)
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for _ in range(options.rounds):
        for name, rounds in found.items():
            rounds.append(session(name))

    def middle(name: str, key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    report: dict[str, Any] = {
        "step": f"{options.student} from {options.teacher}, 2 x {options.batch} pictures of "
        f"{options.image_size} px, {options.precision}",
        "settings": {
            name: {
                "cpu_seconds": round(middle(name, "cpu"), 3),
                "over_one": round(middle(name, "cpu") / middle("one", "cpu"), 2),
                "other_threads": round(middle(name, "others"), 3),
                "wall_over_one": round(middle(name, "wall") / middle("one", "wall"), 2),
            }
            for name in SETTINGS
        },
        "rounds": options.rounds,
        "machine": machine("cpu"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
