"""What distilling a detector's backbone on unlabelled BCCD pictures is worth: Faster R-CNN on the
backbone of a torchvision detector, distilled from DeiT-Ti or fresh, fine-tuned with few and with
all labelled pictures. Finished steps are skipped, so the same command goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/detectors_bccd.py --data BCCD \\
        --teacher deit_tiny_patch16_224.safetensors --out runs/detectors_bccd [--only scratch maps]

`--data` is the folder of `JPEGImages`, `Annotations` and `ImageSets`. The detector is pre-trained
on the pictures of the parts `--train` without their boxes, once for every way; seeds are those of
heads, labelled pictures and their order, and of the backbone that is not pre-trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import vistill
from vistill.files import write_atomic

STUDENT = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn,num_classes=4"
LAST = {"method.resize_map": True}
MAPS = {"student.maps": ["0", "1"], "method.teacher_maps": ["6", "12"]}
WAYS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "scratch": None,
    "maps": ("feature_distillation", MAPS),
    "last": ("feature_distillation", LAST),
    "kdep": ("kdep", {"method.wider": "pad"}),
}
ONE_CORE = {"train.device": "cpu", "data.workers": 0, "train.loggers": []}


def pretrained(way: str, given: argparse.Namespace) -> str:
    """The run of a way, made where it is not there yet."""
    out, recipe = given.out / way, WAYS[way]
    assert recipe is not None
    listed = given.out / "unlabelled.txt"
    names = (given.data / "ImageSets" / "Main" / f"{given.train}.txt").read_text().split()
    pictures = given.data.absolute() / "JPEGImages"
    if not listed.is_file():
        write_atomic(listed, "".join(f"{pictures / name}.jpg\n" for name in names))
    method, settings = recipe
    vistill.pretrain(
        method,
        data=listed,
        out=out,
        teacher=f"file:{given.teacher}",
        student=STUDENT,
        overrides={
            **ONE_CORE,
            "train.epochs": given.epochs,
            "train.global_batch_size": given.batch,
            "optim.lr": 1e-3,
            "optim.warmup_epochs": given.epochs / 10,
            "data.image_size": given.side,
            "data.crop_scale": [0.4, 1.0],
            **settings,
        },
    )
    return f"run:{out}"


def measured(way: str, pictures: int | None, seed: int, given: argparse.Namespace) -> Any:
    """mAP50 and mAP of one cell, in percent."""
    file = given.out / "scores" / f"{way}-{pictures or 'all'}-{seed}.json"
    if file.is_file():
        return json.loads(file.read_text())
    fresh = WAYS[way] is None
    torch.manual_seed(seed)
    result = vistill.evaluate(
        STUDENT if fresh else pretrained(way, given),
        data=given.data,
        protocols=["boxes"],
        random_init=fresh,
        overrides={
            "device": "cpu",
            "workers": 0,
            "seeds": [seed],
            "boxes.train": given.train,
            "boxes.test": given.test,
            "boxes.train_pictures": pictures,
            "boxes.anchors": 4,
            "boxes.size": given.size,
            "boxes.min_steps": given.steps,
            **({} if given.tuning is None else {"boxes.epochs": given.tuning}),
        },
    )
    score = result.boxes[0].boxes
    told = {"map50": score.half.value, "map": score.mean.value}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(told))
    return told


def table(given: argparse.Namespace) -> str:
    """Means over the seeds that are done, as Markdown."""
    lines = ["| way | labelled pictures | mAP50 | mAP | seeds |", "|---|---|---|---|---|"]
    for way in WAYS:
        for pictures in given.pictures:
            pattern = f"{way}-{pictures or 'all'}-*.json"
            found = [json.loads(path.read_text()) for path in (given.out / "scores").glob(pattern)]
            if found:
                cells = [shown([one[key] for one in found]) for key in ("map50", "map")]
                row = [way, str(pictures or "all"), *cells, str(len(found))]
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def shown(values: list[float]) -> str:
    """Their mean, and their spread where there are several."""
    found = torch.tensor(values, dtype=torch.float64)
    return f"{found.mean():.1f}" + (f" ± {found.std():.1f}" if len(values) > 1 else "")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="BCCD in VOC's layout")
    parser.add_argument("--teacher", type=Path, required=True, help="DeiT-Ti")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--train", default="trainval")
    parser.add_argument("--test", default="test")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pictures", type=int, nargs="*", default=[20, 0], help="0: all")
    parser.add_argument("--epochs", type=int, default=60, help="of pre-training")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="of crops in pre-training")
    parser.add_argument("--size", type=int, nargs=2, default=[240, 320], help="in detection")
    parser.add_argument("--steps", type=int, default=800, help="of fine-tuning, at least")
    parser.add_argument("--tuning", type=int, help="epochs of it; default: those of the recipe")
    given = parser.parse_args(words)
    given.pictures = [count or None for count in given.pictures]
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for pictures in given.pictures:
            for way in given.only:
                measured(way, pictures, seed, given)
                write_atomic(given.out / "table.md", table(given) + "\n")
                print(table(given), flush=True)


if __name__ == "__main__":
    main()
