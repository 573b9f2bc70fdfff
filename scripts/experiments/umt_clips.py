"""UMT's first stage on clips, where one frame says nearly nothing: an image teacher, students that
see a fifth of the tokens, drawn by the teacher's attention or at random, against VideoMAE and no
pre-training. Finished steps are skipped, so the same command goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/umt_clips.py --sprites sprite_actions.zip \\
        --teacher deit_tiny_patch16_224.safetensors --out runs/umt_clips [--fights fight_clips.zip]
"""

import argparse
import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiment import Arm, Experiment, seeded, unpacked

import vistill
from vistill.models.build import create_backbone

FRAMES, QUANTILE = 8, {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""The 97.5 % point of Student's t, by how many pre-trainings a mean is over."""


def fight_split(fights: Path, out: Path) -> dict[str, str]:
    """Lists of the two parts of `index.csv`, in which no camera is in both."""
    with open(fights / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lists = {}
    for part in ("train", "test"):
        named = [row for row in rows if row["split"] == part]
        text = "".join(f"{(fights / r['file']).absolute()} {r['label']}\n" for r in named)
        (out / f"fight-{part}.txt").write_text(text)
        lists[part] = str(out / f"fight-{part}.txt")
    return lists


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", type=Path, required=True, help="folder or archive")
    parser.add_argument("--fights", type=Path, help="folder or archive with index.csv")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of an image ViT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="*", default=["scratch", "semantic", "random", "videomae"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of pre-training")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--videomae-epochs", type=int, default=3)
    parser.add_argument("--measures", nargs="*", default=["probes"], help="probes, finetune")
    parser.add_argument("--steps", type=int, default=100, help="of fine-tuning")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--width", type=int, default=96)
    given = parser.parse_args(words)

    given.out.mkdir(parents=True, exist_ok=True)
    sprites = unpacked(given.sprites, given.out / "sprites")
    reading = {"stride": 1, "sampling": "segments"}
    tuning = reading | {
        "clips": 1,
        "crops": 1,
        "finetune.epochs": 1,
        "finetune.min_steps": given.steps,
        "finetune.global_batch_size": 16,
        "finetune.micro_batch_size": 16,
        "finetune.drop_path": 0.0,
        "finetune.lr": 1e-3,
        "finetune.layer_decay": 1.0,
        "finetune.flip": 0.0,
        "finetune.crop_scale": [0.8, 1.0],
    }
    sprite = Experiment(
        out=given.out,
        unlabelled=str(sprites / "train"),
        train=str(sprites / "train"),
        test=str(sprites / "test"),
        seeds=(0,),
        budgets=(1.0,),
        probe_budgets=(1.0,),
        probes=reading | {"linear.min_steps": 300},
        measures=given.measures,
        task="sprite-",
    )
    tasks = [sprite]
    if given.fights is not None:
        lists = fight_split(unpacked(given.fights, given.out / "fights"), given.out)
        tasks.append(replace(sprite, train=lists["train"], test=lists["test"], task="fight-"))

    def student() -> Any:
        return create_backbone(
            "vit",
            image_size=given.image_size,
            embed_dim=given.width,
            depth=6,
            num_heads=given.width // 32,
            num_frames=FRAMES,
            tubelet_size=1,
        )

    settings = {
        "data.image_size": given.image_size,
        "data.frames": FRAMES,
        "data.sampling": "segments",
        "optim.lr": 1e-3,
        "optim.warmup_epochs": 0.25,
        "train.epochs": given.epochs,
        "train.global_batch_size": 32,
        "train.knn_probe": False,
    }
    teacher = partial(vistill.load_backbone, f"file:{given.teacher}", image_size=given.image_size)
    decoder = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    painting = {f"method.decoder.{name}": value for name, value in decoder.items()}
    of_arm: dict[str, tuple[str | None, dict[str, Any]]] = {
        "scratch": (None, {}),
        "semantic": ("umt", settings | {"method.mask": "semantic"}),
        "random": ("umt", settings | {"method.mask": "random"}),
        "videomae": ("videomae", settings | painting | {"train.epochs": given.videomae_epochs}),
    }

    # Seed by seed, so that an early stop leaves whole rounds.
    for seed in given.seeds:
        for name in given.arms:
            method, own = of_arm[name]
            arm = Arm(
                f"{name}-{seed}",
                lambda _, seed=seed: seeded(student)(seed),
                method,
                teacher if method == "umt" else None,
                own | {"seed": seed} if method else {},
                tuning,
            )
            for task in tasks:
                fewer = {} if task is sprite else {"finetune.min_steps": given.steps // 2}
                replace(task, seeds=(seed,)).run(replace(arm, finetune=tuning | fewer))
        print(
            summary(given.out, given.arms, given.seeds, [task.task for task in tasks]), flush=True
        )


def summary(out: Path, arms: list[str], seeds: list[int], tasks: list[str]) -> str:
    """A row an arm: mean over pre-trainings with its 95 % interval; also `summary.json`."""
    rows: dict[str, Any] = {}
    for name in arms:
        row: dict[str, Any] = {}
        for task in tasks:
            found: dict[str, list[float]] = {}
            for seed in seeds:
                for file in sorted((out / f"{name}-{seed}").glob(f"{task}*.json")):
                    for score in json.loads(file.read_text())["scores"]:
                        found.setdefault(score["protocol"], []).append(score["top1"])
            for protocol, scores in found.items():
                row[f"{task}{protocol}"] = {"top1": scores, "mean": mean(scores)}
                if len(scores) > 1:
                    half = QUANTILE[len(scores)] * stdev(scores) / len(scores) ** 0.5
                    row[f"{task}{protocol}"]["half_width"] = half
        spent = [out / f"{name}-{seed}" / "cpu_seconds" for seed in seeds]
        row["cpu_seconds"] = [float(file.read_text()) for file in spent if file.exists()]
        rows[name] = row
    (out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    return json.dumps(rows, indent=1)


if __name__ == "__main__":
    main()
