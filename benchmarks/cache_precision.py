"""What the rounding of a cache does to TinyMIM's loss: bytes of a record, how far the loss and its
gradient are off those of the live teacher, and what writing and reading cost.

Take a teacher with real weights and real pictures: the size of outliers decides. The student is a
fresh one, or one of a run (`run:DIR`), whose loss is smaller and easier to disturb.

    python benchmarks/cache_precision.py --data PICTURES --teacher file:deit_tiny.safetensors
        [--student run:DIR] [--target relation] [--block 12] [--count 48] [--image-size 224]
"""

import argparse
import json
from typing import Any, cast

import numpy as np
import torch
from common import CLOCKS, machine

from vistill.config.methods import TinyMIMConfig
from vistill.data import BrokenFiles, TrainTransform, eval_batches, open_source
from vistill.data.records import Precision, record_of
from vistill.methods.tinymim import TinyMIM
from vistill.models.build import create_backbone, load_backbone, load_teacher

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="pictures: folder, list, .tar or .zip")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default="vit_tiny", help="a model, or run:DIR")
    parser.add_argument("--target", choices=("relation", "feature"), default="relation")
    parser.add_argument("--block", type=int)
    parser.add_argument("--count", type=int, default=48, help="pictures")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    source = open_source(options.data)
    teacher = load_teacher(options.teacher, weights=None, image_size=options.image_size)
    torch.manual_seed(0)
    if ":" in options.student:
        student = load_backbone(options.student)
    else:
        student = create_backbone(options.student, image_size=options.image_size)
    config = TinyMIMConfig.model_validate({"target": options.target})
    method = TinyMIM(student, teacher, config, block=options.block, drop_path=0.0).eval()
    ids = np.linspace(0, len(source) - 1, options.count).astype(int)
    batches = eval_batches(
        source,
        ids,
        TrainTransform(options.image_size),
        batch_size=8,
        workers=0,
        broken=BrokenFiles(len(ids), max_share=1.0),
    )
    sums: dict[str, dict[str, Any]] = {
        name: {"loss": 0.0, "own": 0.0, "both": 0.0, "live": 0.0, "write": 0.0, "read": 0.0}
        for name in PRECISIONS
    }
    tap, clock, seen, nbytes = method.target.taps[0], CLOCKS["cpu"], 0, {}
    for batch in batches:
        with torch.no_grad():
            said = cast(torch.Tensor, method.live_features(batch))
            ours = method.ours.see(batch, [tap])[tap]
        exact = None
        for name, found in sums.items():
            record = record_of(said, name)
            start = clock()
            raw = record.encode(said)
            written = clock()
            read = record.decode(raw)
            found["write"] += written - start
            found["read"] += clock() - written
            leaf = ours.clone().requires_grad_(True)
            loss = torch.stack([*method.target(leaf, read).values()]).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
            exact = gradient.double() if exact is None else exact
            found["loss"] += float(loss.detach()) * len(batch)
            found["own"] += float(gradient.double().square().sum())
            found["both"] += float((gradient.double() * exact).sum())
            found["live"] += float(exact.square().sum())
            nbytes[name] = record.nbytes
        seen += len(batch)
    live = sums["fp32"]["loss"]
    report = {
        "teacher": f"{options.teacher}, block {method.target.taps[1].block}",
        "student": options.student,
        "target": options.target,
        "pictures": f"{seen} at {options.image_size} px",
        "loss": round(live / seen, 4),
        "precisions": {
            name: {
                "bytes": nbytes[name],
                "loss_off_percent": round(100 * (found["loss"] / live - 1), 3),
                "gradient_cosine": round(found["both"] / (found["own"] * found["live"]) ** 0.5, 5),
                "write_ms": round(1e3 * found["write"] / seen, 2),
                "read_ms": round(1e3 * found["read"] / seen, 2),
            }
            for name, found in sums.items()
        },
        "machine": machine("cpu"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
