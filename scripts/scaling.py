"""Compute what one epoch takes on many GPUs, from what was measured, for docs/scaling.md.

    python scripts/scaling.py            # prints the tables
    python scripts/scaling.py --write    # puts them into docs/scaling.md

Operations are counted on one sample of each recipe, forward and backward; loading is what
`benchmarks/results/data_throughput.json` and `video_throughput.json` measured; bytes of a cache are
those of its records. What a GPU and a network do was not measured and is an argument: the tables
say with which.
"""

import argparse
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from vistill.batch import Batch
from vistill.config.loading import load_config
from vistill.image_size import height_width
from vistill.methods.shared_view import SharedView
from vistill.models.build import create_backbone
from vistill.runs.build import build

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scaling.md"
GPUS = (8, 64, 1000)
A_NODE = 8


class Plan(NamedTuple):
    """One epoch.

    Attributes:
        name: of the set.
        samples: in it.
        recipe: of the run.
        teacher: its architecture.
        loaded: samples that a core loads in a second.
        views: that a cache keeps.
    """

    name: str
    samples: int
    recipe: str
    teacher: str
    loaded: float
    views: int


class Cost(NamedTuple):
    """Of one sample: operations of teacher and student (forward and backward), bytes of a record;
    parameters that learn; samples of a step; and crops that an epoch takes of each sample."""

    teacher: float
    student: float
    record: int
    parameters: int
    batch: int
    repeats: int


def cost(plan: Plan) -> Cost:
    """Counted on one sample, in bf16 on the host."""
    words = {
        "data.train": "x",
        "teacher.model": f"object:{plan.teacher}",
        "teacher.weights": "random",
    }
    config = load_config(plan.recipe, words.items())
    frames, size = config.data.frames, height_width(config.data.image_size)
    clip, of_clips = ((), {}) if frames is None else ((frames,), {"class_token": False})
    teacher = create_backbone(plan.teacher, image_size=size, num_frames=frames, **of_clips)
    method = build(config, teacher=teacher).train()
    pixels = torch.zeros(1, 3, *clip, *size, dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert isinstance(method, SharedView)
    with torch.autocast("cpu", torch.bfloat16):
        with FlopCounterMode(display=False) as look, torch.no_grad():
            said = method.live_features(method.view(batch, augment=True))
        with FlopCounterMode(display=False) as whole:
            method(batch).total.backward()
    parts = said.values() if isinstance(said, dict) else [said]
    record = sum((4 if part.dtype == torch.int64 else 2) * part[0].numel() for part in parts)
    learned = sum(p.numel() for p in method.parameters() if p.grad is not None)
    all_, looked = whole.get_total_flops(), look.get_total_flops()
    train, repeats = config.train, config.data.repeats
    return Cost(looked, all_ - looked, record, learned, train.global_batch_size, repeats)


def measured(name: str, *keys: str) -> float:
    """A figure of a benchmark's results."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    for key in keys:
        found = found[key]
    return float(found)


def table(plan: Plan, options: argparse.Namespace) -> str:
    """The lines of one plan."""
    one = cost(plan)
    rate, count = options.tflops * 1e12, plan.samples * one.repeats
    rows = []
    for gpus in GPUS:
        teacher, student = (work * count / gpus / rate for work in (one.teacher, one.student))
        steps = math.ceil(plan.samples / one.batch)
        link = options.link if gpus <= A_NODE else options.network
        sent = 2 * (gpus - 1) / gpus * 4 * one.parameters
        backward = 2 / 3 * student / steps
        travel = sent / link / 1e9
        seen = steps * max(0.0, travel - backward)  # what the backward pass does not hide
        live, warm = teacher + student + seen, student + seen
        rows.append(
            f"| {gpus:,} | {_time(teacher)} | {_time(student)} | **{_time(live)}** | "
            f"**{_time(warm)}** | {1e3 * travel:.2g} of {1e3 * backward:.2g} ms | "
            f"{count / live / plan.loaded / gpus:.1f} | "
            f"{count / warm / plan.loaded / gpus:.1f} | "
            f"{one.record * count / warm / gpus / 1e9:.2g} GB/s |"
        )
    bytes_ = one.record * count * plan.views
    crops = f" × {one.repeats} crops" if one.repeats > 1 else ""
    loaded = f"{plan.loaded:,.0f} samples a second and core"
    return "\n".join(
        [
            f"**{plan.name}**: {plan.samples:,} samples{crops}, `{plan.recipe}` ← "
            f"`{plan.teacher}`, batch {one.batch:,}; of a sample {one.teacher / 1e9:.0f} GF in the "
            f"teacher and {one.student / 1e9:.0f} GF in the student; "
            f"{one.parameters / 1e6:.1f} M parameters learn; {loaded}; "
            f"a record of the cache has {one.record:,} bytes in bf16, "
            f"{plan.views} views of all {bytes_ / 1e12:.3g} TB.",
            "",
            "| GPUs | teacher | student | epoch, live | epoch, warm cache | gradients, of the "
            "backward pass | loader cores a GPU, live | warm | cache read by a GPU |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.2g} s"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--tflops", type=float, default=300, help="sustained by a GPU in bf16")
    arguments.add_argument("--link", type=float, default=200, help="GB/s of a GPU in a node")
    arguments.add_argument("--network", type=float, default=40, help="GB/s of a GPU between nodes")
    arguments.add_argument("--write", action="store_true")
    options = arguments.parse_args()
    pictures = measured("data_throughput", "bccd", "per_cpu_second", "vistill")
    prepared = (
        "720p_long_gop",
        "clips_per_cpu_second",
        "prepared",
        "segments",
        "pipeline_4_repeats",
    )
    plans = [
        Plan("ImageNet-22k", 14_197_122, "tinymim_small", "vit_base", pictures, 4),
        Plan(
            "K710",
            660_000,
            "amd_small_k400",
            "vit_large",
            measured("video_throughput", *prepared),
            4,
        ),
    ]
    text = "\n\n".join(
        [
            f"At {options.tflops:g} TFLOP/s a GPU in bf16, {options.link:g} GB/s a GPU within a "
            f"node of {A_NODE} and {options.network:g} GB/s between nodes:",
            *(table(plan, options) for plan in plans),
        ]
    )
    print(text)
    if options.write:
        marked = re.compile(r"(<!-- scripts/scaling.py -->\n).*(\n<!-- end -->)", re.DOTALL)
        page, count = marked.subn(lambda m: f"{m[1]}\n{text}\n{m[2]}", PAGE.read_text())
        assert count == 1, f"{PAGE} has no place for the tables"
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
