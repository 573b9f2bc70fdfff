"""How often what a run says of its end holds: students of CIFAR-10 are pre-trained by several
methods, for some epochs and for twice as many, and after every evaluation the forecast is held
against what came. Finished runs are skipped.

    OMP_NUM_THREADS=1 python scripts/experiments/outlooks.py --data cifar10.tar.gz \\
        --teacher resnet20-12fca82f.th --out runs/outlooks
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiment import ONE_CORE, linked, seeded, unpacked
from kdep_cifar10 import pretraining, resnet

import vistill
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone
from vistill.training.outlook import Outlook, outlook

METRICS = ("knn", "held_out_loss")


def vit() -> Backbone:
    return create_backbone("vit", image_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The evaluations of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for metric in METRICS:
            if metric in line:
                found.setdefault(metric, []).append((round(line["epoch"]), line[metric]))
    return found


def judged(runs: dict[str, dict[str, Any]], epochs: int) -> dict[str, Any]:
    """Shares of forecasts that held: of a run's own end, by how far it had come, and of a run of
    twice the length; and where `flat` would have ended a run, and what that would have cost."""
    own: dict[str, dict[str, list[bool]]] = {}
    twice: dict[str, list[bool]] = {}
    stops: list[dict[str, Any]] = []
    for name, found in runs.items():
        for metric, curve in found.items():
            falls, last = metric != "knn", curve[-1][0]
            truth, stopped = curve[-1][1], False
            for seen in range(1, len(curve)):
                ahead = outlook(curve[:seen], last, falls=falls)
                if ahead is None:
                    continue
                part = "first half" if seen <= len(curve) / 2 else "second half"
                own.setdefault(metric, {}).setdefault(part, []).append(held(ahead, truth))
                far = outlook(curve[:seen], max(last, 2 * seen), falls=falls)
                if far is not None and far.flat and not stopped:
                    stopped = True
                    lost = (truth - curve[seen - 1][1]) * (-1 if falls else 1)
                    stops.append(
                        {"run": name, "metric": metric, "epoch": seen, "of": last, "lost": lost}
                    )
            longer = runs.get(name.replace(f"-{epochs}-", f"-{2 * epochs}-"))
            if last == epochs and longer:
                ahead = outlook(curve, 2 * epochs, falls=falls)
                if ahead is not None:
                    twice.setdefault(metric, []).append(held(ahead, longer[metric][-1][1]))
    share = lambda hits: {"held": sum(hits), "of": len(hits)}  # noqa: E731
    return {
        "own_end": {m: {part: share(h) for part, h in parts.items()} for m, parts in own.items()},
        "twice_as_long": {metric: share(hits) for metric, hits in twice.items()},
        "flat": stops,
    }


def held(ahead: Outlook, truth: float) -> bool:
    return ahead.low <= truth <= ahead.high


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder or archive, train/ test/")
    parser.add_argument("--teacher", type=Path, required=True, help="a CIFAR ResNet-20")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args(words)

    pictures = linked(
        unpacked(given.data, given.out) / "train", given.per_class, given.out / "part"
    )
    small: Callable[[], Backbone] = lambda: resnet(8)  # noqa: E731
    arms: dict[str, tuple[str, Callable[[], Backbone], dict[str, Any]]] = {
        "kdep": ("kdep", small, {}),
        "relation_kd": ("relation_kd", small, {}),
        "fd": ("feature_distillation", vit, {"method.target": "patches"}),
        "mae": ("mae", vit, {"method.decoder.embed_dim": 64, "method.decoder.depth": 1}),
        "supervised": ("supervised", small, {}),
    }
    for seed in given.seeds:
        for name, (method, student, options) in arms.items():
            for epochs in (given.epochs, 2 * given.epochs):
                run = given.out / f"{name}-{epochs}-{seed}"
                if (run / "result.json").exists():
                    continue
                taught = method not in ("mae", "supervised")
                settings = pretraining(epochs, 64) | {
                    "data.held_out": 0.1,
                    "train.precision": "fp32",
                    "seed": seed,
                }
                vistill.pretrain(
                    method,
                    data=str(pictures),
                    out=run,
                    teacher=resnet(20, given.teacher) if taught else None,
                    student=seeded(student)(seed),
                    overrides=ONE_CORE | settings | options,
                )
    runs = {p.parent.name: curves(p.parent) for p in sorted(given.out.glob("*/result.json"))}
    told = judged(runs, given.epochs)
    (given.out / "outlooks.json").write_text(json.dumps({"judged": told, "runs": runs}) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
